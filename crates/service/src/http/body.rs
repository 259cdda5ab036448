//! Bodies of replies and requests.

use crate::problem::{Kind, Problem};
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The body of a reply: bytes at hand, or a stream.
#[derive(Debug)]
pub struct Body(Inner);

#[derive(Debug)]
enum Inner {
    /// Bytes at hand, until they are taken.
    Whole(Option<Bytes>),
    /// A stream, and what is told when it ends.
    Stream(axum::body::Body, Option<OnEnd>),
}

/// Runs when the stream of a body is dropped.
pub(super) struct OnEnd(pub(super) Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnEnd")
    }
}

impl Drop for OnEnd {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Body {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Inner::Whole(None))
    }

    /// Bytes that come by and by. Prefer `From` for bytes at hand: they need no box.
    #[must_use]
    pub fn stream(stream: axum::body::Body) -> Self {
        Self(Inner::Stream(stream, None))
    }

    /// Whether more may come after the reply's head.
    pub(super) const fn is_stream(&self) -> bool {
        matches!(self.0, Inner::Stream(..))
    }

    /// Calls `told` when the stream ends. For bytes at hand it is called at once.
    pub(super) fn on_end(&mut self, told: OnEnd) {
        match &mut self.0 {
            Inner::Whole(_) => {}
            Inner::Stream(_, end) => *end = Some(told),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Whole(Some(bytes)))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.get_mut().0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Stream(stream, _) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Inner::Stream(stream, _) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Stream(stream, _) => stream.size_hint(),
        }
    }
}

/// How much of a request's body is taken, and how long it may need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyLimits {
    /// Most bytes.
    pub maximum_bytes: usize,
    /// The name of the setting that gives [`Self::maximum_bytes`], if one does.
    pub setting: Option<&'static str>,
    /// Longest time without a byte.
    pub idle: Duration,
    /// When the whole body must be there.
    pub deadline: Instant,
}

impl BodyLimits {
    /// The problem of a body with more than the most bytes.
    #[must_use]
    pub fn too_large(&self) -> Problem {
        let Self { maximum_bytes, setting, .. } = self;
        let setting = setting.map(|setting| format!(", the setting `{setting}`")).unwrap_or_default();
        Problem::new(Kind::TooLarge, format!("the body has more than {maximum_bytes} bytes{setting}"))
    }
}

/// Reads a request's body whole. Without a copy if it comes in one piece, as small bodies do. `reserve` is asked before
/// bytes are kept: first for the declared length, or without one for each piece; it may refuse.
pub async fn read_body<B>(
    body: &mut B,
    limits: BodyLimits,
    mut reserve: impl FnMut(usize) -> Result<(), Problem>,
) -> Result<Bytes, Problem>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let declared = body.size_hint().exact();
    let capacity = match declared {
        Some(length) => match usize::try_from(length) {
            Ok(length) if length <= limits.maximum_bytes => length,
            _ => return Err(limits.too_large()),
        },
        None => 0,
    };
    if capacity > 0 {
        reserve(capacity)?;
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut read = 0;
    while let Some(piece) = next_piece(body, limits).await? {
        read += piece.len();
        if read > limits.maximum_bytes {
            return Err(limits.too_large());
        }
        if declared.is_none() {
            reserve(piece.len())?;
        }
        if first.is_empty() {
            first = piece;
        } else {
            if rest.is_empty() {
                rest.reserve(capacity.max(first.len() + piece.len()));
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&piece);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

async fn next_piece<B>(body: &mut B, limits: BodyLimits) -> Result<Option<Bytes>, Problem>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    loop {
        // Most often the bytes are there already, and a timer would cost more than taking them.
        let at_hand = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => Poll::Ready(None),
        });
        let frame = match at_hand.await {
            Some(frame) => frame,
            None => {
                let end = limits.deadline.min(Instant::now() + limits.idle);
                let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
                tokio::time::timeout_at(end, frame).await.map_err(|_| too_slow())?
            }
        };
        match frame {
            None => return Ok(None),
            // Trailers carry nothing for us.
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Ok(Some(piece)),
                Err(_) => {}
            },
            Some(Err(_)) => return Err(Problem::new(Kind::Malformed, "the body ended early or is not well formed")),
        }
    }
}

fn too_slow() -> Problem {
    Problem::new(Kind::BodyTooSlow, "the rest of the body did not come in time (`http.body_idle_ms`, Request-Timeout)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    type Item = Result<Frame<Bytes>, std::convert::Infallible>;

    fn limits() -> BodyLimits {
        let deadline = Instant::now() + Duration::from_secs(60);
        BodyLimits {
            maximum_bytes: 10,
            setting: Some("api.maximum_value_bytes"),
            idle: Duration::from_millis(50),
            deadline,
        }
    }

    fn pieces(pieces: &[&'static str]) -> Vec<Item> {
        pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).collect()
    }

    #[tokio::test]
    async fn one_piece_is_not_copied() {
        let bytes = Bytes::from_static(b"0123456789");
        let read = read_body(&mut Full::new(bytes.clone()), limits(), |_| Ok(())).await.expect("read");
        assert_eq!(read.as_ptr(), bytes.as_ptr());
        let mut stream = StreamBody::new(futures::stream::iter(vec![Item::Ok(Frame::data(bytes.clone()))]));
        let read = read_body(&mut stream, limits(), |_| Ok(())).await.expect("read");
        assert_eq!(read.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn several_pieces_are_joined_and_reserved_one_by_one() {
        let mut reserved = Vec::new();
        let mut stream = StreamBody::new(futures::stream::iter(pieces(&["ab", "", "cde", "f"])));
        let read = read_body(&mut stream, limits(), |bytes| {
            reserved.push(bytes);
            Ok(())
        });
        assert_eq!(read.await.expect("read"), "abcdef");
        assert_eq!(reserved, [2, 3, 1]);
    }

    #[tokio::test]
    async fn what_is_over_the_limit_is_refused_before_it_is_kept() {
        let refused = |problem: Problem| {
            assert_eq!(problem.kind, Kind::TooLarge);
            assert!(problem.detail.contains("10 bytes") && problem.detail.contains("api.maximum_value_bytes"));
        };
        let mut declared = Full::new(Bytes::from_static(b"01234567890"));
        refused(read_body(&mut declared, limits(), |_| panic!("keeps bytes")).await.expect_err("too large"));
        let mut kept = 0;
        let mut stream = StreamBody::new(futures::stream::iter(pieces(&["01234", "56789", "0"])));
        let read = read_body(&mut stream, limits(), |bytes| {
            kept += bytes;
            Ok(())
        });
        refused(read.await.expect_err("too large"));
        assert_eq!(kept, 10);
    }

    #[tokio::test]
    async fn a_refused_reservation_ends_the_reading() {
        let refusal = || Problem::new(Kind::Overloaded, "no room");
        let mut body = Full::new(Bytes::from_static(b"0"));
        assert_eq!(read_body(&mut body, limits(), |_| Err(refusal())).await, Err(refusal()));
        assert_eq!(body.frame().await.map(|frame| frame.is_ok()), Some(true), "not a byte was read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let first = futures::stream::iter(pieces(&["a"]));
        let mut stalled = StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending()));
        let problem = read_body(&mut stalled, limits(), |_| Ok(())).await.expect_err("too slow");
        assert_eq!(problem.kind, Kind::BodyTooSlow);
        // A body that drips is never idle but ends with the deadline.
        let drip = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            Some((Item::Ok(Frame::data(Bytes::from_static(b"a"))), ()))
        });
        let deadline = Instant::now() + Duration::from_millis(100);
        let mut dripping = StreamBody::new(Box::pin(drip));
        let problem = read_body(&mut dripping, BodyLimits { deadline, ..limits() }, |_| Ok(())).await;
        assert_eq!(problem.expect_err("too slow").kind, Kind::BodyTooSlow);
    }
}

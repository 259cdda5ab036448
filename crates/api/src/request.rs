//! What a request says: its key, query and headers, checked. Everything here refuses rather than guesses.

use crate::backend::Consistency;
use crate::entity_tag::{Tag, TagError, Tags};
use crate::settings::ApiSettings;
use crate::span;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use scatter_core::codec::Encode as _;
use scatter_core::command::{Condition, Idempotency, MAX_IDEMPOTENCY_KEY_BYTES};
use scatter_core::ring::Key;
use scatter_service::{Kind, Problem};
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

fn malformed(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Kind::Malformed, detail)
}

/// The key that the rest of a raw path names.
pub(crate) fn key(raw: &str) -> Result<Key, Problem> {
    let bytes =
        decode(raw).ok_or_else(|| malformed("the key has a `%` that is not followed by two hexadecimal digits"))?;
    Key::new(bytes).map_err(|error| malformed(error.to_string()))
}

/// Undoes percent-encoding.
fn decode(raw: &str) -> Option<Bytes> {
    let raw = raw.as_bytes();
    if !raw.contains(&b'%') {
        return Some(Bytes::copy_from_slice(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(*rest.next()?)? << 4 | digit(*rest.next()?)?,
            plain => *plain,
        });
    }
    Some(bytes.into())
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The value of each of `names` in the query, in their order. Any other name, and any name twice, is refused.
fn parameters<const N: usize>(query: Option<&str>, names: [&'static str; N]) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |raw: &str| decode(raw).and_then(|bytes| String::from_utf8(bytes.into()).ok());
        let (Some(name), Some(value)) = (text(name), text(value)) else {
            return Err(malformed(format!("the query parameter `{}` is not well encoded", brief(pair))));
        };
        let Some(index) = names.iter().position(|known| *known == name) else {
            let known =
                if N == 0 { "this request takes none".to_owned() } else { format!("known are {}", names.join(", ")) };
            return Err(malformed(format!("the query parameter `{}` is unknown; {known}", brief(&name))));
        };
        if values[index].replace(value).is_some() {
            return Err(malformed(format!("the query parameter `{name}` is given twice")));
        }
    }
    Ok(values)
}

fn brief(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The consistency that a read's query asks for.
pub(crate) fn consistency(query: Option<&str>) -> Result<Consistency, Problem> {
    if query.is_none() {
        return Ok(Consistency::Linearizable);
    }
    let [consistency, max_staleness] = parameters(query, ["consistency", "max_staleness"])?;
    let max_staleness = max_staleness.map(|text| parse_span("query parameter", "max_staleness", &text)).transpose()?;
    match (consistency.as_deref().unwrap_or("linearizable"), max_staleness) {
        ("linearizable", None) => Ok(Consistency::Linearizable),
        ("any", None) => Ok(Consistency::Any),
        ("bounded", Some(max_staleness)) => Ok(Consistency::Bounded { max_staleness }),
        ("bounded", None) => Err(malformed("`consistency=bounded` needs `max_staleness`, such as max_staleness=5s")),
        ("linearizable" | "any", Some(_)) => Err(malformed("`max_staleness` goes with `consistency=bounded` only")),
        (other, _) => Err(malformed(format!(
            "the query parameter `consistency` = `{}` is not linearizable, bounded or any",
            brief(other)
        ))),
    }
}

/// The time-to-live that a put's query asks for, in milliseconds.
pub(crate) fn ttl_ms(query: Option<&str>) -> Result<Option<u64>, Problem> {
    let [ttl] = parameters(query, ["ttl"])?;
    let ttl = ttl.map(|text| parse_span("query parameter", "ttl", &text)).transpose()?;
    Ok(ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)))
}

/// For requests that take no parameter.
pub(crate) fn no_parameters(query: Option<&str>) -> Result<(), Problem> {
    parameters(query, []).map(|[]| ())
}

fn parse_span(what: &str, name: &str, text: &str) -> Result<Duration, Problem> {
    span::parse(text).map_err(|error| malformed(format!("the {what} `{name}` = `{}` {error}", brief(text))))
}

/// The headers that matter, of any request.
#[derive(Default, Debug)]
pub(crate) struct Headers {
    pub(crate) if_match: Option<Tags>,
    pub(crate) if_none_match: Option<Tags>,
    pub(crate) idempotency_key: Option<Bytes>,
    timeout: Option<Duration>,
    /// A precondition or a part of a value that is not supported, and must not be ignored on a write.
    unsupported: Option<&'static str>,
}

impl Headers {
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut read = Self::default();
        for (name, value) in headers {
            match name.as_str() {
                "if-match" => add_tags(&mut read.if_match, "If-Match", value)?,
                "if-none-match" => add_tags(&mut read.if_none_match, "If-None-Match", value)?,
                "idempotency-key" => once(&mut read.idempotency_key, "Idempotency-Key", idempotency_key(value)?)?,
                "request-timeout" => once(&mut read.timeout, "Request-Timeout", timeout(value)?)?,
                "if-unmodified-since" => read.unsupported = Some("If-Unmodified-Since"),
                "content-range" => read.unsupported = Some("Content-Range"),
                _ => {}
            }
        }
        Ok(read)
    }

    /// How long the whole request may take.
    pub(crate) fn timeout(&self, settings: &ApiSettings) -> Result<Duration, Problem> {
        let Some(timeout) = self.timeout else { return Ok(Duration::from_millis(settings.default_timeout_ms)) };
        if timeout > Duration::from_millis(settings.maximum_timeout_ms) {
            let most = settings.maximum_timeout_ms;
            return Err(malformed(format!("the header `Request-Timeout` is over {most}ms (`api.maximum_timeout_ms`)")));
        }
        Ok(timeout)
    }

    /// The condition of a write.
    pub(crate) fn condition(&self, write: WriteKind) -> Result<Condition, Problem> {
        if let Some(name) = self.unsupported {
            return Err(malformed(format!(
                "the header `{name}` is not supported on writes; use If-Match with a version"
            )));
        }
        match (&self.if_match, &self.if_none_match) {
            (None, None) => Ok(Condition::Always),
            (Some(_), Some(_)) => Err(malformed("a write takes If-Match or If-None-Match, not both")),
            (Some(Tags::Any), None) => Ok(Condition::Exists),
            (Some(Tags::List(tags)), None) => match tags.as_slice() {
                [Tag::Strong(version)] => Ok(Condition::VersionIs { version: *version }),
                // RFC 9110, 13.1.1: If-Match compares strongly, and a weak tag equals nothing strongly.
                [Tag::Weak(_)] => {
                    Err(Problem::new(Kind::ConditionFailed, "a weak entity tag never matches in If-Match"))
                }
                [Tag::Foreign] => {
                    Err(malformed("the entity tag in `If-Match` is not a version; versions look like \"42\""))
                }
                _ => Err(malformed("`If-Match` on a write takes one entity tag or `*`")),
            },
            (None, Some(Tags::Any)) if write == WriteKind::Put => Ok(Condition::Absent),
            (None, Some(_)) => Err(malformed("`If-None-Match` on a write takes only `*`, and only with PUT")),
        }
    }
}

/// Which write; the number is what [`Idempotency::method`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WriteKind {
    Put = b'P' as isize,
    Delete = b'D' as isize,
}

fn add_tags(tags: &mut Option<Tags>, name: &str, value: &HeaderValue) -> Result<(), Problem> {
    let wrong = |error: TagError| malformed(format!("the header `{name}` {error}"));
    let more = Tags::parse(value.as_bytes()).map_err(wrong)?;
    *tags = Some(match tags.take() {
        None => more,
        Some(before) => before.join(more).map_err(wrong)?,
    });
    Ok(())
}

fn once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), Problem> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(format!("the header `{name}` is given twice"))),
    }
}

/// The key with or without the double quotes that a structured header field has.
fn idempotency_key(value: &HeaderValue) -> Result<Bytes, Problem> {
    let value = value.as_bytes().trim_ascii();
    let key = match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return Err(malformed(format!(
            "the header `Idempotency-Key` has 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes, not {}",
            key.len()
        )));
    }
    Ok(Bytes::copy_from_slice(key))
}

fn timeout(value: &HeaderValue) -> Result<Duration, Problem> {
    let text = value.to_str().map_err(|_| malformed("the header `Request-Timeout` is not text"))?;
    parse_span("header", "Request-Timeout", text.trim_ascii())
}

/// The record of an `Idempotency-Key`: the digest covers all that the request asks for, each part of a known length or
/// preceded by it.
pub(crate) fn idempotency(
    idempotency_key: Bytes,
    write: WriteKind,
    key: &Key,
    condition: &Condition,
    ttl_ms: Option<u64>,
    body: &Bytes,
) -> Idempotency {
    let method = write as u8;
    let mut asked = BytesMut::with_capacity(64 + key.bytes().len());
    asked.put_u8(method);
    key.encode(&mut asked);
    condition.encode(&mut asked);
    ttl_ms.encode(&mut asked);
    let mut digest = Xxh3::new();
    digest.update(&asked);
    digest.update(body);
    Idempotency { key: idempotency_key, method, digest: digest.digest128() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scatter_core::types::Version;

    fn detail<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
        let problem = result.expect_err("refused");
        assert_eq!(problem.kind, Kind::Malformed, "{problem:?}");
        problem.detail.into_owned()
    }

    #[test]
    fn keys_are_any_bytes() {
        for (raw, bytes) in [
            ("a", &b"a"[..]),
            ("a/b//c/", b"a/b//c/"),
            ("%00%ff%2F%25", b"\x00\xff/%"),
            ("a+b", b"a+b"),
            ("..", b".."),
            ("%e2%82%AC", "€".as_bytes()),
        ] {
            assert_eq!(key(raw).expect(raw).bytes(), bytes, "{raw}");
        }
        assert!(key(&"x".repeat(4096)).is_ok());
        assert!(key(&"%41".repeat(4096)).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for raw in ["%", "a%", "%4", "%4g", "%g4", "%%41", "%+1", "% 1"] {
            assert!(detail(key(raw)).contains("two hexadecimal digits"), "{raw}");
        }
        assert!(detail(key("")).contains("at least 1 byte"));
        assert!(detail(key(&"x".repeat(4097))).contains("at most 4096 bytes, not 4097"));
        assert!(detail(key(&"%41".repeat(4097))).contains("at most 4096 bytes, not 4097"));
    }

    #[test]
    fn consistency_is_read() {
        let bounded = Consistency::Bounded { max_staleness: Duration::from_secs(5) };
        for (query, expected) in [
            (None, Consistency::Linearizable),
            (Some(""), Consistency::Linearizable),
            (Some("&"), Consistency::Linearizable),
            (Some("consistency=linearizable"), Consistency::Linearizable),
            (Some("consistency=any"), Consistency::Any),
            (Some("consistency=bounded&max_staleness=5s"), bounded),
            (Some("max_staleness=%35s&consisten%63y=bounded"), bounded),
        ] {
            assert_eq!(consistency(query), Ok(expected), "{query:?}");
        }
    }

    #[test]
    fn bad_queries_are_refused_by_name() {
        for (query, part) in [
            ("consistency=strong", "`strong` is not linearizable, bounded or any"),
            ("consistency=bounded", "needs `max_staleness`"),
            ("max_staleness=5s", "`consistency=bounded` only"),
            ("consistency=bounded&max_staleness=5", "`max_staleness` = `5`"),
            ("ttl=5s", "`ttl` is unknown; known are consistency, max_staleness"),
            ("consistency=any&consistency=any", "`consistency` is given twice"),
            ("consistency=%ff", "`consistency=%ff` is not well encoded"),
            ("consistency=%f", "not well encoded"),
        ] {
            let detail = detail(consistency(Some(query)));
            assert!(detail.contains(part), "{query}: {detail}");
        }
        for (query, part) in [
            ("ttl=", "`ttl` = `` is not a whole number"),
            ("ttl=0s", "more than zero"),
            ("ttl=forever", "`ttl` = `forever`"),
            ("ttl=1s&ttl=1s", "`ttl` is given twice"),
            ("ttl=999999d", "36500 days"),
            ("consistency=any", "`consistency` is unknown; known are ttl"),
        ] {
            let detail = detail(ttl_ms(Some(query)));
            assert!(detail.contains(part), "{query}: {detail}");
        }
        assert!(detail(no_parameters(Some("ttl=1s"))).contains("`ttl` is unknown; this request takes none"));
        assert_eq!(ttl_ms(Some("ttl=1d")), Ok(Some(86_400_000)));
    }

    fn headers(pairs: &[(&'static str, &str)]) -> Result<Headers, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a header"));
        }
        Headers::read(&map)
    }

    #[test]
    fn conditions_of_writes() {
        let condition = |pairs: &[_], write| headers(pairs).and_then(|headers| headers.condition(write));
        let put = |pairs: &[_]| condition(pairs, WriteKind::Put);
        assert_eq!(put(&[]), Ok(Condition::Always));
        assert_eq!(put(&[("if-match", "\"7\"")]), Ok(Condition::VersionIs { version: Version(7) }));
        assert_eq!(put(&[("if-match", "*")]), Ok(Condition::Exists));
        assert_eq!(put(&[("if-none-match", "*")]), Ok(Condition::Absent));
        let weak = put(&[("if-match", "W/\"7\"")]).expect_err("never matches");
        assert_eq!(weak.kind, Kind::ConditionFailed);
        for (pairs, part) in [
            (&[("if-match", "7")][..], "`If-Match` is not `*` or a list"),
            (&[("if-match", "\"x\"")], "not a version"),
            (&[("if-match", "\"7\", \"8\"")], "takes one entity tag"),
            (&[("if-match", "\"7\""), ("if-match", "\"8\"")], "takes one entity tag"),
            (&[("if-match", "*"), ("if-match", "\"8\"")], "is not `*` or a list"),
            (&[("if-none-match", "\"7\"")], "takes only `*`"),
            (&[("if-match", "\"7\""), ("if-none-match", "*")], "not both"),
            (&[("if-unmodified-since", "x")], "`If-Unmodified-Since` is not supported"),
            (&[("content-range", "bytes 0-1/2")], "`Content-Range` is not supported"),
        ] {
            let detail = detail(put(pairs));
            assert!(detail.contains(part), "{pairs:?}: {detail}");
        }
        assert!(detail(condition(&[("if-none-match", "*")], WriteKind::Delete)).contains("only with PUT"));
    }

    #[test]
    fn timeouts_are_bounded() {
        let settings = ApiSettings::default();
        let timeout = |pairs: &[_]| headers(pairs).and_then(|headers| headers.timeout(&settings));
        assert_eq!(timeout(&[]), Ok(Duration::from_secs(5)));
        assert_eq!(timeout(&[("request-timeout", "250ms")]), Ok(Duration::from_millis(250)));
        assert_eq!(timeout(&[("request-timeout", "1m")]), Ok(Duration::from_secs(60)));
        for (value, part) in
            [("61s", "api.maximum_timeout_ms"), ("0s", "more than zero"), ("2", "`2`"), ("é", "not text")]
        {
            let detail = detail(timeout(&[("request-timeout", value)]));
            assert!(detail.contains(part), "{value}: {detail}");
        }
        assert!(detail(timeout(&[("request-timeout", "1s"), ("request-timeout", "1s")])).contains("given twice"));
    }

    #[test]
    fn idempotency_keys_are_bounded() {
        let key = |value: &str| headers(&[("idempotency-key", value)]).map(|headers| headers.idempotency_key);
        assert_eq!(key("abc"), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(key("\"abc\""), Ok(Some(Bytes::from_static(b"abc"))));
        assert!(key(&"x".repeat(256)).is_ok());
        for value in [String::new(), "\"\"".into(), "x".repeat(257)] {
            assert!(detail(key(&value)).contains("1 to 256 bytes"), "{value}");
        }
        assert!(detail(headers(&[("idempotency-key", "a"), ("idempotency-key", "a")])).contains("given twice"));
    }

    #[test]
    fn the_digest_covers_all_that_is_asked() {
        let key = |text: &'static str| Key::new(text.as_bytes()).expect("a key");
        let body = Bytes::from_static;
        let digest = |write, key: &Key, condition, ttl, body: &Bytes| {
            idempotency(Bytes::from_static(b"i"), write, key, &condition, ttl, body).digest
        };
        let same = || digest(WriteKind::Put, &key("k"), Condition::Always, None, &body(b"v"));
        assert_eq!(same(), same());
        let others = [
            digest(WriteKind::Delete, &key("k"), Condition::Always, None, &body(b"v")),
            digest(WriteKind::Put, &key("kv"), Condition::Always, None, &body(b"")),
            digest(WriteKind::Put, &key("k"), Condition::Exists, None, &body(b"v")),
            digest(WriteKind::Put, &key("k"), Condition::Always, Some(1), &body(b"v")),
            digest(WriteKind::Put, &key("k"), Condition::Always, None, &body(b"w")),
        ];
        assert!(others.iter().all(|other| *other != same()));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = key(&text);
            let _ = consistency(Some(&text));
            let _ = ttl_ms(Some(&text));
        }

        #[test]
        fn encoded_keys_read_back(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..300)) {
            let raw: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
            let key = key(&raw).expect("a key");
            proptest::prop_assert_eq!(key.bytes(), &bytes);
        }
    }
}

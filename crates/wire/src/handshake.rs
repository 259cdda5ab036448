//! The handshake over any byte stream. Time limits are the caller's.

use crate::frame::{Frame, FrameBuffer, FrameError, HANDSHAKE_FRAME_LIMIT, Versions};
use crate::hello::{Answer, Hello, Identity, Refused, RefusedReason, decode_open};
use bytes::{Bytes, BytesMut};
use scatter_core::codec::Encode;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a handshake did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed or ended.
    #[error("the connection failed during the handshake: {0}")]
    Io(#[from] io::Error),
    /// What came is not our protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other side refused.
    #[error("refused: {0}")]
    Refused(Refused),
}

/// A handshake that stands.
#[derive(Debug)]
pub struct Welcomed {
    /// Who answered.
    pub identity: Identity,
    /// The wire version both speak.
    pub version: u16,
    /// What was read beyond the handshake.
    pub buffer: FrameBuffer,
}

/// A connection that said who it is and waits for an answer.
#[derive(Debug)]
pub struct Introduced {
    /// Who connects.
    pub hello: Hello,
    /// The wire version both speak.
    pub version: u16,
    /// What was read beyond the hello.
    pub buffer: FrameBuffer,
}

/// Introduces this side to the one that accepted the connection.
pub async fn connect<S>(stream: &mut S, hello: &Hello) -> Result<Welcomed, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&opening(Versions::OURS, hello)).await?;
    let mut buffer = FrameBuffer::new(HANDSHAKE_FRAME_LIMIT);
    let theirs = read_preamble(stream, &mut buffer).await?;
    match decode_open(read_frame(stream, &mut buffer).await?).map_err(FrameError::from)? {
        Answer::Welcome { identity } => Ok(Welcomed { identity, version: Versions::OURS.agree(theirs)?, buffer }),
        Answer::Refused { refused } => Err(HandshakeError::Refused(refused)),
    }
}

/// Reads who connects. What is not our protocol is dropped without an answer; a version not shared, or a first frame that
/// is no hello, is answered with the reason.
pub async fn accept<S>(stream: &mut S) -> Result<Introduced, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = FrameBuffer::new(HANDSHAKE_FRAME_LIMIT);
    let theirs = read_preamble(stream, &mut buffer).await?;
    let version = match Versions::OURS.agree(theirs) {
        Ok(version) => version,
        Err(error) => return Err(decline(stream, RefusedReason::Version, error).await),
    };
    let hello = match read_frame(stream, &mut buffer).await {
        Ok(frame) => decode_open(frame).map_err(FrameError::from),
        Err(HandshakeError::Frame(error)) => Err(error),
        Err(error) => return Err(error),
    };
    match hello {
        Ok(hello) => Ok(Introduced { hello, version, buffer }),
        Err(error) => Err(decline(stream, RefusedReason::Malformed, error).await),
    }
}

/// Says yes.
pub async fn welcome<S>(stream: &mut S, identity: Identity) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(&opening(Versions::OURS, &Answer::Welcome { identity })).await
}

/// Says no, and waits until the other side has hung up or sent more than it should, so that closing does not destroy the
/// answer on its way.
pub async fn refuse<S>(stream: &mut S, refused: Refused) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&opening(Versions::OURS, &Answer::Refused { refused })).await?;
    stream.shutdown().await?;
    let mut ignored = [0; 1024];
    let mut left = HANDSHAKE_FRAME_LIMIT * 2;
    while left > 0 {
        match stream.read(&mut ignored).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

/// Preamble and first frame together: one write.
fn opening(versions: Versions, first: &impl Encode) -> Bytes {
    let mut bytes = BytesMut::from(&versions.preamble()[..]);
    bytes.extend_from_slice(&Frame::encode(first).to_bytes());
    bytes.freeze()
}

async fn decline<S>(stream: &mut S, reason: RefusedReason, error: FrameError) -> HandshakeError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match refuse(stream, Refused::new(reason, error.to_string())).await {
        Ok(()) | Err(_) => error.into(),
    }
}

async fn read_preamble<S>(stream: &mut S, buffer: &mut FrameBuffer) -> Result<Versions, HandshakeError>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(versions) = buffer.preamble()? {
            return Ok(versions);
        }
        fill(stream, buffer).await?;
    }
}

async fn read_frame<S>(stream: &mut S, buffer: &mut FrameBuffer) -> Result<Bytes, HandshakeError>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(frame) = buffer.next_frame()? {
            return Ok(frame);
        }
        fill(stream, buffer).await?;
    }
}

async fn fill<S>(stream: &mut S, buffer: &mut FrameBuffer) -> io::Result<()>
where
    S: AsyncRead + Unpin,
{
    if stream.read_buf(buffer.space()).await? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed the connection"));
    }
    Ok(())
}

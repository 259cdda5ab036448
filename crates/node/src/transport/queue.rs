//! Frames that wait for a connection, bounded by number and by bytes.

use scatter_wire::Frame;
use std::collections::VecDeque;
use std::io::IoSlice;

/// The most parts of frames in one vectored write.
const MAX_SLICES: usize = 64;

/// What may wait. The first frame of an empty queue is always taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// The most frames.
    pub frames: usize,
    /// The most bytes.
    pub bytes: usize,
}

/// The frames, oldest first.
#[derive(Debug)]
pub(super) struct FrameQueue {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Part of the first frame is written: it is to go on there, and nowhere else.
    begun: bool,
    limits: QueueLimits,
}

impl FrameQueue {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, begun: false, limits }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn has_room(&self, length: usize) -> bool {
        self.frames.is_empty()
            || (self.frames.len() < self.limits.frames && self.bytes.saturating_add(length) <= self.limits.bytes)
    }

    /// Adds a frame if there is room.
    #[must_use]
    pub(super) fn push(&mut self, frame: Frame) -> bool {
        let room = self.has_room(frame.len());
        if room {
            self.bytes += frame.len();
            self.frames.push_back(frame);
        }
        room
    }

    /// Adds a frame and drops the oldest until there is room for it; a frame that is partly written stays. Returns how
    /// many were dropped.
    pub(super) fn push_newest(&mut self, frame: Frame) -> usize {
        let mut dropped = 0;
        let kept = usize::from(self.begun);
        while !self.has_room(frame.len()) {
            let Some(oldest) = self.frames.remove(kept) else { break };
            self.bytes -= oldest.len();
            dropped += 1;
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        dropped
    }

    /// Takes the first frame out, none of which was written.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    /// The next bytes to write, as many slices as one write takes.
    pub(super) fn slices(&self) -> ([IoSlice<'_>; MAX_SLICES], usize) {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut used = 0;
        let parts = self.frames.iter().flat_map(Frame::parts).filter(|part| !part.is_empty());
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            used += 1;
        }
        (slices, used)
    }

    /// Removes `written` bytes from the front. Returns how many frames that completed.
    pub(super) fn advance(&mut self, written: usize) -> usize {
        let mut left = written;
        let mut completed = 0;
        self.bytes -= written.min(self.bytes);
        while let Some(first) = self.frames.front_mut() {
            if left < first.len() {
                first.advance(left);
                self.begun |= left > 0;
                break;
            }
            left -= first.len();
            self.frames.pop_front();
            self.begun = false;
            completed += 1;
        }
        completed
    }

    /// Drops everything: the connection is gone, and a frame that was partly written can never be completed. Returns how
    /// many frames that were.
    pub(super) fn clear(&mut self) -> usize {
        let dropped = self.frames.len();
        self.frames.clear();
        self.bytes = 0;
        self.begun = false;
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame of `length` bytes, but at least nine, every second one in two parts. It ends in its tag.
    fn frame(tag: u8, length: usize) -> Frame {
        let rest = length.max(9) - 8;
        if tag.is_multiple_of(2) {
            Frame::build(|out| out.resize(8 + rest, tag))
        } else {
            Frame::encode_with_tail(&0_u32, vec![tag; rest].into())
        }
    }

    fn tags(queue: &FrameQueue) -> Vec<u8> {
        queue.frames.iter().map(|frame| *frame.to_bytes().last().expect("a tag")).collect()
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut queue = FrameQueue::new(QueueLimits { frames: 3, bytes: 100 });
        for tag in 0..5 {
            assert_eq!(queue.push_newest(frame(tag, 10)), usize::from(tag > 2));
        }
        assert_eq!(tags(&queue), [2, 3, 4]);
        assert_eq!(queue.push_newest(frame(5, 90)), 2);
        assert_eq!(tags(&queue), [4, 5]);
    }

    #[test]
    fn a_frame_that_is_partly_written_stays() {
        let mut queue = FrameQueue::new(QueueLimits { frames: 2, bytes: 100 });
        queue.push_newest(frame(0, 10));
        queue.push_newest(frame(1, 10));
        assert_eq!(queue.advance(4), 0);
        assert_eq!(queue.push_newest(frame(2, 10)), 1);
        assert_eq!(tags(&queue), [0, 2]);
        assert_eq!(queue.frames[0].len(), 6);
        // Even one that fills the queue alone.
        assert_eq!(queue.push_newest(frame(3, 1000)), 1);
        assert_eq!(tags(&queue), [0, 3]);
    }

    #[test]
    fn without_room_a_frame_is_refused() {
        let mut queue = FrameQueue::new(QueueLimits { frames: 2, bytes: 100 });
        assert!(queue.push(frame(0, 1000)), "an empty queue takes any frame");
        assert!(!queue.push(frame(1, 1)));
        assert_eq!(queue.advance(1000), 1);
        assert!(queue.push(frame(2, 50)));
        assert!(queue.push(frame(3, 50)));
        assert!(!queue.push(frame(4, 0)));
        assert_eq!(tags(&queue), [2, 3]);
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order(lengths in prop::collection::vec(1..40_usize, 1..100), step in 1..100_usize) {
            let mut queue = FrameQueue::new(QueueLimits { frames: 1000, bytes: 1 << 20 });
            let mut expected = Vec::new();
            for (index, length) in lengths.iter().enumerate() {
                let frame = frame(index as u8, *length);
                expected.extend_from_slice(&frame.to_bytes());
                prop_assert!(queue.push(frame));
            }
            let (mut written, mut completed) = (Vec::new(), 0);
            while !queue.is_empty() {
                let (slices, used) = queue.slices();
                let piece: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
                completed += queue.advance(piece.len());
                written.extend(piece);
            }
            prop_assert_eq!(written, expected);
            prop_assert_eq!(completed, lengths.len());
            prop_assert_eq!(queue.bytes, 0);
        }
    }
}

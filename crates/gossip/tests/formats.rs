//! Bytes from elsewhere: whatever they are, they do no harm.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use scatter_core::time::Instant;
use scatter_core::types::NodeId;
use scatter_gossip::{Gossip, Identity, MAX_DATAGRAM_BYTES, Profile, Rejected, Settings, StartError};
use std::time::Duration;
use world::World;

fn alone() -> Gossip {
    let identity = Identity::new(NodeId(1), 1, "n1:7000");
    Gossip::new(identity, Profile::default(), Settings::default(), 1, Instant(0)).unwrap()
}

/// What a cluster of three says in its first seconds.
fn real_datagrams() -> (World, Vec<Bytes>) {
    let settings = Settings { forget_after: Duration::from_secs(60), ..Settings::default() };
    let mut world = World::new(3, settings, 1);
    let groups: Vec<_> = (0..40).map(|index| world.descriptor(index, 40)).collect();
    world.call(1, |gossip, now| gossip.learn_descriptors(now, &groups));
    world.record = Some(Vec::new());
    world.run(Duration::from_secs(10));
    let heard = world.record.take().unwrap();
    (world, heard)
}

#[test]
fn what_is_not_a_datagram_is_rejected_and_counted() {
    let mut gossip = alone();
    let mut hear = |bytes: &[u8]| gossip.handle(Instant(1), NodeId(2), Bytes::copy_from_slice(bytes));
    assert!(matches!(hear(&[]), Err(Rejected::Decode(_))));
    assert_eq!(hear(&[9]), Err(Rejected::Version(9)));
    assert!(matches!(hear(&[1, 99]), Err(Rejected::Decode(_))));
    assert!(matches!(hear(&[1, 6, 2]), Err(Rejected::Decode(_))));
    assert_eq!(hear(&vec![1; MAX_DATAGRAM_BYTES + 1]), Err(Rejected::TooLong(MAX_DATAGRAM_BYTES + 1)));
    assert_eq!(hear(&[1]), Ok(()), "a datagram may say nothing");
    assert_eq!((gossip.counters().received, gossip.counters().rejected), (6, 5));
}

#[test]
fn the_engine_may_move_to_another_thread() {
    fn may_move(_: impl Send) {}
    may_move(alone());
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    // An exchange part, then a list of elements that is said to be four billion long.
    let mut bytes = BytesMut::new();
    bytes.put_slice(&[1, 5, 3, 6, 2, 1]);
    bytes.put_u64_le(0);
    bytes.put_u64_le(u64::MAX);
    bytes.put_u32_le(u32::MAX);
    assert!(matches!(alone().handle(Instant(1), NodeId(2), bytes.freeze()), Err(Rejected::Decode(_))));
}

#[test]
fn nobody_speaks_in_another_name() {
    let mut speaker =
        Gossip::new(Identity::new(NodeId(2), 1, "n2:7000"), Profile::default(), Settings::default(), 2, Instant(0))
            .unwrap();
    speaker.meet(Instant(0), NodeId(1), "n1:7000");
    let said: Vec<_> = speaker.outgoing().collect();
    assert_eq!(said.len(), 1);
    let mut gossip = alone();
    assert_eq!(gossip.handle(Instant(1), NodeId(3), said[0].bytes.clone()), Err(Rejected::OtherSender));
    assert_eq!(gossip.nodes().count(), 1);
    assert_eq!(gossip.handle(Instant(1), NodeId(2), said[0].bytes.clone()), Ok(()));
    assert_eq!(gossip.nodes().count(), 2);
}

#[test]
fn texts_that_are_too_long_are_refused() {
    let mut gossip = alone();
    let profile = Profile { zone: "z".repeat(129), ..Profile::default() };
    assert!(matches!(gossip.set_profile(Instant(1), profile), Err(StartError::Text(_))));
    assert!(matches!(gossip.set_address(Instant(1), &"a".repeat(256)), Err(StartError::Text(_))));
    gossip.meet(Instant(1), NodeId(2), &"a".repeat(256));
    assert_eq!(gossip.outgoing().count(), 0);
}

#[test]
fn every_end_of_a_real_datagram_is_read_without_harm() {
    let (mut world, heard) = real_datagrams();
    let from = world.slots[1].id;
    for datagram in heard.iter().take(60) {
        for end in 0..datagram.len() {
            let _ = world.call(0, |gossip, now| gossip.handle(now, from, datagram.slice(..end)));
        }
    }
    world.run(Duration::from_secs(10));
    assert!(world.agrees());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut gossip = alone();
        let mut datagram = vec![1];
        datagram.extend(bytes);
        let _ = gossip.handle(Instant(1), NodeId(2), datagram.into());
    }

    #[test]
    fn spoilt_datagrams_do_no_lasting_harm(
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let (mut world, heard) = real_datagrams();
        for (which, at, byte) in spoils {
            let mut datagram = which.get(&heard).to_vec();
            let at = at.index(datagram.len());
            datagram[at] = byte;
            let from = world.slots[1].id;
            let _ = world.call(0, |gossip, now| gossip.handle(now, from, datagram.into()));
        }
        // What was made up may be believed until it is forgotten, a later boot of somebody for example. Then those that
        // live find together.
        let sent = world.sent();
        world.run(Duration::from_secs(30));
        prop_assert!(world.sent() - sent < 30 * 3 * 40, "nobody argues without end");
        let lives = |world: &World| world.running().all(|(_, gossip)| {
            world.running().all(|(slot, _)| !matches!(
                gossip.node(slot.id).map(|node| node.state()),
                None | Some(scatter_gossip::State::Down)
            ))
        });
        prop_assert!(world.run_until(Duration::from_secs(240), lives).is_some());
    }
}

//! The membership protocol: SWIM as the `foca` library has it, its timers, and its byte format.

use crate::identity::Identity;
use crate::settings::Settings;
use crate::wire::{MAX_SWIM_BYTES, Rejected};
use bytes::{Buf, BufMut, Bytes};
use foca::{Config, Foca, Header, Member, Message, NoCustomBroadcast, Notification, Timer};
use scatter_core::codec::DecodeError;
use scatter_core::rng::Rng;
use scatter_core::time::Instant;
use scatter_core::types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// The core's seeded generator, as the library wants it.
struct Chance(Rng);

impl rand_core::TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// The byte format of what the library says.
pub(crate) struct Codec;

impl foca::Codec<Identity> for Codec {
    type Error = DecodeError;

    fn encode_header(&mut self, header: &Header<Identity>, mut out: impl BufMut) -> Result<(), DecodeError> {
        header.src.put(&mut out)?;
        header.dst.put(&mut out)?;
        if out.remaining_mut() < 4 {
            return Err(DecodeError::Short("room for a header"));
        }
        out.put_u16_le(header.src_incarnation);
        let (tag, number, third) = match &header.message {
            Message::Ping(number) => (1, Some(*number), None),
            Message::Ack(number) => (2, Some(*number), None),
            Message::PingReq { target, probe_number } => (3, Some(*probe_number), Some(target)),
            Message::IndirectPing { origin, probe_number } => (4, Some(*probe_number), Some(origin)),
            Message::IndirectAck { target, probe_number } => (5, Some(*probe_number), Some(target)),
            Message::ForwardedAck { origin, probe_number } => (6, Some(*probe_number), Some(origin)),
            Message::Announce => (7, None, None),
            Message::Feed => (8, None, None),
            Message::Gossip => (9, None, None),
            Message::Broadcast => (10, None, None),
            Message::TurnUndead => (11, None, None),
        };
        out.put_u8(tag);
        if let Some(number) = number {
            out.put_u8(number);
        }
        third.map_or(Ok(()), |third| third.put(&mut out))
    }

    fn decode_header(&mut self, mut from: impl Buf) -> Result<Header<Identity>, DecodeError> {
        let (src, dst) = (Identity::take(&mut from)?, Identity::take(&mut from)?);
        let src_incarnation = take(&mut from, 2, Buf::get_u16_le)?;
        let tag = take(&mut from, 1, Buf::get_u8)?;
        let probe_number = if (1..=6).contains(&tag) { take(&mut from, 1, Buf::get_u8)? } else { 0 };
        let message = match tag {
            1 => Message::Ping(probe_number),
            2 => Message::Ack(probe_number),
            3 => Message::PingReq { target: Identity::take(&mut from)?, probe_number },
            4 => Message::IndirectPing { origin: Identity::take(&mut from)?, probe_number },
            5 => Message::IndirectAck { target: Identity::take(&mut from)?, probe_number },
            6 => Message::ForwardedAck { origin: Identity::take(&mut from)?, probe_number },
            7 => Message::Announce,
            8 => Message::Feed,
            9 => Message::Gossip,
            10 => Message::Broadcast,
            11 => Message::TurnUndead,
            tag => return Err(DecodeError::Tag { what: "membership message", tag: u64::from(tag) }),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Identity>, mut out: impl BufMut) -> Result<(), DecodeError> {
        member.id().put(&mut out)?;
        if out.remaining_mut() < 3 {
            return Err(DecodeError::Short("room for a member"));
        }
        out.put_u16_le(member.incarnation());
        out.put_u8(match member.state() {
            foca::State::Alive => 1,
            foca::State::Suspect => 2,
            foca::State::Down => 3,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut from: impl Buf) -> Result<Member<Identity>, DecodeError> {
        let identity = Identity::take(&mut from)?;
        let incarnation = take(&mut from, 2, Buf::get_u16_le)?;
        let state = match take(&mut from, 1, Buf::get_u8)? {
            1 => foca::State::Alive,
            2 => foca::State::Suspect,
            3 => foca::State::Down,
            tag => return Err(DecodeError::Tag { what: "state of a member", tag: u64::from(tag) }),
        };
        Ok(Member::new(identity, incarnation, state))
    }
}

fn take<B: Buf, T>(from: &mut B, length: usize, get: impl FnOnce(&mut B) -> T) -> Result<T, DecodeError> {
    if from.remaining() < length { Err(DecodeError::Short("membership packet")) } else { Ok(get(from)) }
}

/// What a packet says, as far as it matters here before the library sees it.
pub(crate) struct Glance {
    /// Who sent it.
    pub(crate) src: Identity,
    /// Of whom else it tells.
    pub(crate) members: Vec<Member<Identity>>,
    /// How many bytes the header takes: the packet up to here is one that tells of nobody.
    pub(crate) header_bytes: usize,
}

/// Reads a packet.
pub(crate) fn glance(packet: &[u8]) -> Result<Glance, DecodeError> {
    use foca::Codec as _;
    let mut rest = packet;
    let header = Codec.decode_header(&mut rest)?;
    let header_bytes = packet.len() - rest.len();
    let mut members = Vec::new();
    if !rest.is_empty() {
        let count = take(&mut rest, 2, Buf::get_u16)?;
        for _ in 0..count {
            members.push(Codec.decode_member(&mut rest)?);
        }
    }
    if !rest.is_empty() {
        return Err(DecodeError::Trailing(rest.len()));
    }
    Ok(Glance { src: header.src, members, header_bytes })
}

/// What the library wants done.
#[derive(Default)]
struct Sink {
    sends: Vec<(Identity, Bytes)>,
    timers: Vec<(Duration, Timer<Identity>)>,
    touched: Touched,
    dead: bool,
}

/// Whose state may have changed.
#[derive(Default)]
pub(crate) struct Touched {
    /// Anybody's.
    pub(crate) all: bool,
    /// That of these.
    pub(crate) nodes: BTreeSet<NodeId>,
}

impl Touched {
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.nodes.is_empty()
    }

    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.all || self.nodes.contains(&node)
    }
}

impl foca::Runtime<Identity> for Sink {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(id) | Notification::MemberDown(id) | Notification::Rename(_, id) => {
                self.touched.nodes.insert(id.node);
            }
            Notification::Defunct => self.dead = true,
            Notification::Active | Notification::Idle | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        self.timers.push((after, timer));
    }
}

/// The membership protocol with its timers.
pub(crate) struct Swim {
    foca: Foca<Identity, Codec, Chance, NoCustomBroadcast>,
    sink: Sink,
    timers: BTreeMap<(Instant, u64), Timer<Identity>>,
    next_timer: u64,
    settings: Settings,
    /// For how many nodes the settings that grow with the cluster are set.
    scaled_for: usize,
    /// Who is suspected, by which count of denials, and since when.
    suspected: Vec<(Identity, u16, Instant)>,
}

fn config(settings: &Settings, nodes: usize) -> Config {
    let count = |count: usize| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    Config {
        probe_period: settings.probe_period,
        probe_rtt: settings.probe_timeout,
        num_indirect_probes: count(settings.indirect_probes),
        max_transmissions: NonZeroU8::new(settings.transmissions(nodes)).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: settings.suspicion(nodes),
        // The node table forgets, by age and by room.
        remove_down_after: None,
        max_packet_size: count(MAX_SWIM_BYTES),
        notify_down_members: true,
        // Each of these is done here instead: exchanges, contacts, and rumours that share the datagrams.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: None,
    }
}

impl Swim {
    pub(crate) fn new(identity: Identity, settings: &Settings, seed: u64) -> Self {
        let foca = Foca::new(identity, config(settings, 1), Chance(Rng::new(seed)), Codec);
        let settings = settings.clone();
        Self {
            foca,
            sink: Sink::default(),
            timers: BTreeMap::new(),
            next_timer: 0,
            settings,
            scaled_for: 1,
            suspected: Vec::new(),
        }
    }

    /// All members it knows, those that are down included; never this node.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member<Identity>> {
        let own = self.foca.identity().node;
        self.foca.iter_membership_state().filter(move |member| member.id().node != own)
    }

    /// How many members live.
    pub(crate) fn active(&self) -> usize {
        self.foca.num_members()
    }

    /// Whether there is news of members to pass on.
    pub(crate) fn has_news(&self) -> bool {
        self.foca.updates_backlog() > 0
    }

    /// Takes in a packet.
    pub(crate) fn handle(&mut self, now: Instant, packet: &[u8]) -> Result<(), Rejected> {
        let result = self.foca.handle_data(packet, &mut self.sink);
        self.arm(now);
        result.map_err(|error| Rejected::Membership(error.to_string()))
    }

    /// Takes in what was told of members outside the protocol's own packets. It is not passed on as a rumour.
    pub(crate) fn apply(&mut self, now: Instant, members: Vec<Member<Identity>>) {
        // The only error is an identity that cannot be encoded, and what was decoded can.
        let _ = self.foca.apply_many(members.into_iter(), false, &mut self.sink);
        self.arm(now);
    }

    /// Runs what is due.
    pub(crate) fn run(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            let timer = entry.remove();
            if self.is_settled(&timer) {
                continue;
            }
            // The end of a probe makes a suspect without a word about whom.
            self.sink.touched.all |= matches!(timer, Timer::ProbeRandomMember(_));
            // Errors are of timers that have lost their meaning; the library goes on by itself.
            let _ = self.foca.handle_timer(timer, &mut self.sink);
            self.arm(now);
        }
    }

    /// Whether a timer ends a suspicion that was denied in time. The library would leave the state as it is, but tell the
    /// member that it is dead all the same, and make it begin another life for nothing.
    fn is_settled(&self, timer: &Timer<Identity>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return false };
        let suspected = |member: &Member<Identity>| {
            member.incarnation() == *incarnation && member.state() == foca::State::Suspect && member.id() == member_id
        };
        !self.foca.iter_membership_state().any(suspected)
    }

    /// Those who are to hear that they are suspected, each with the count of denials that it goes by: whom this node will declare
    /// dead, and whom it has held for suspect for too long. Whoever was to declare those dead forgot, by dying or by beginning
    /// another life itself, and their answers to probes say nothing against a suspicion.
    pub(crate) fn suspects(&mut self, now: Instant) -> Vec<(Identity, u16)> {
        let mut suspects: Vec<(Identity, u16)> = Vec::new();
        for timer in self.timers.values() {
            if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer
                && !self.is_settled(timer)
                && suspects.iter().all(|(known, _)| known != member_id)
            {
                suspects.push((member_id.clone(), *incarnation));
            }
        }
        self.note_suspected(now);
        let patience = self.settings.suspicion(self.scaled_for) * 2;
        for (identity, incarnation, since) in &self.suspected {
            if now.since(*since) > patience && suspects.iter().all(|(known, _)| known != identity) {
                suspects.push((identity.clone(), *incarnation));
            }
        }
        suspects
    }

    /// Keeps since when each member is suspected.
    fn note_suspected(&mut self, now: Instant) {
        let before = std::mem::take(&mut self.suspected);
        let suspected = self.members().filter(|member| member.state() == foca::State::Suspect);
        let noted = suspected.map(|member| {
            let same =
                before.iter().find(|(id, incarnation, _)| id == member.id() && *incarnation == member.incarnation());
            (member.id().clone(), member.incarnation(), same.map_or(now, |(_, _, since)| *since))
        });
        let noted = noted.collect();
        self.suspected = noted;
    }

    /// This node, in that life, is suspected: denies it.
    pub(crate) fn deny(&mut self, now: Instant, identity: Identity, incarnation: u16) {
        // As in `apply`.
        let suspicion = std::iter::once(Member::new(identity, incarnation, foca::State::Suspect));
        let _ = self.foca.apply_many(suspicion, false, &mut self.sink);
        self.arm(now);
    }

    /// Moves every timer: this process did not see that time, so nothing that others failed to do in it counts.
    pub(crate) fn postpone(&mut self, by: Duration) {
        let timers = std::mem::take(&mut self.timers);
        self.timers = timers.into_iter().map(|((at, number), timer)| ((at.after(by), number), timer)).collect();
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    /// Introduces this node to another.
    pub(crate) fn announce(&mut self, now: Instant, to: Identity) {
        // An address that cannot be encoded reaches nobody.
        let _ = self.foca.announce(to, &mut self.sink);
        self.arm(now);
    }

    /// Sends the news of members to some others.
    pub(crate) fn gossip(&mut self, now: Instant) {
        let _ = self.foca.gossip(&mut self.sink);
        self.arm(now);
    }

    /// Goes on as another identity of the same node.
    pub(crate) fn become_identity(&mut self, now: Instant, identity: Identity) {
        // Refused only if nothing changes.
        let _ = self.foca.change_identity(identity, &mut self.sink);
        self.arm(now);
    }

    /// Tells the others that this node is going.
    pub(crate) fn leave(&mut self, now: Instant) {
        let _ = self.foca.leave_cluster(&mut self.sink);
        self.arm(now);
    }

    /// Forgets a member that is down.
    pub(crate) fn forget(&mut self, identity: Identity) {
        let _ = self.foca.handle_timer(Timer::RemoveDown(identity), &mut self.sink);
    }

    /// Forgets what the library keeps of this node's own former lives.
    pub(crate) fn forget_former_selves(&mut self) {
        let own = self.foca.identity().node;
        let former: Vec<_> = self.foca.iter_membership_state().filter(|member| member.id().node == own).collect();
        for identity in former.into_iter().map(|member| member.id().clone()).collect::<Vec<_>>() {
            self.forget(identity);
        }
    }

    /// Lets what grows with the cluster follow its size.
    pub(crate) fn scale(&mut self) {
        let nodes = self.foca.num_members() + 1;
        if nodes != self.scaled_for {
            self.scaled_for = nodes;
            // Refused only if periods change, which these do not.
            let _ = self.foca.set_config(config(&self.settings, nodes));
        }
    }

    /// What is to be sent.
    pub(crate) fn take_sends(&mut self) -> Vec<(Identity, Bytes)> {
        std::mem::take(&mut self.sink.sends)
    }

    /// Notes that the state of these may have changed.
    pub(crate) fn touch(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        self.sink.touched.nodes.extend(nodes);
    }

    /// Whose state may have changed since the last call.
    pub(crate) fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.sink.touched)
    }

    /// Whether this node was found to be dead, as the others see it, since the last call.
    pub(crate) fn take_dead(&mut self) -> bool {
        std::mem::take(&mut self.sink.dead)
    }

    /// Notes the timers that the library asked for.
    fn arm(&mut self, now: Instant) {
        for (after, timer) in self.sink.timers.drain(..) {
            self.next_timer += 1;
            self.timers.insert((now.after(after), self.next_timer), timer);
        }
    }
}

/// A member as the library names it, alive or down.
pub(crate) fn member_of(identity: Identity, incarnation: u16, down: bool) -> Member<Identity> {
    Member::new(identity, incarnation, if down { foca::State::Down } else { foca::State::Alive })
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Codec as _;
    use proptest::prelude::*;

    fn named(node: u64) -> Identity {
        Identity { node: NodeId(node), boot: 1, bump: 0, address: format!("n{node}:1").into() }
    }

    #[test]
    fn a_suspicion_that_its_maker_forgot_is_told_of() {
        let settings = Settings::default();
        let mut swim = Swim::new(named(1), &settings, 7);
        let suspicion = Member::new(named(2), 0, foca::State::Suspect);
        swim.apply(Instant(1), vec![member_of(named(3), 0, false), suspicion]);
        assert_eq!(swim.suspects(Instant(1)), []);
        let early = Instant(1).after(settings.suspicion(1));
        assert_eq!(swim.suspects(early), []);
        let late = early.after(settings.suspicion(1) * 2);
        assert_eq!(swim.suspects(late), [(named(2), 0)]);
        swim.apply(late, vec![member_of(named(2), 1, false)]);
        assert_eq!(swim.suspects(late), []);
    }

    fn identity() -> impl Strategy<Value = Identity> {
        (any::<u64>(), any::<u64>(), any::<u32>(), "[a-z.:0-9]{0,40}").prop_map(|(node, boot, bump, address)| {
            Identity { node: NodeId(node), boot, bump, address: address.into() }
        })
    }

    fn message() -> impl Strategy<Value = Message<Identity>> {
        (0..11, any::<u8>(), identity()).prop_map(|(tag, probe_number, other)| match tag {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: other, probe_number },
            3 => Message::IndirectPing { origin: other, probe_number },
            4 => Message::IndirectAck { target: other, probe_number },
            5 => Message::ForwardedAck { origin: other, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            src in identity(),
            dst in identity(),
            src_incarnation in any::<u16>(),
            message in message(),
            member in (identity(), any::<u16>(), any::<bool>()),
        ) {
            let header = Header { src, src_incarnation, dst, message };
            let mut bytes = Vec::new();
            Codec.encode_header(&header, &mut bytes).unwrap();
            prop_assert_eq!(Codec.decode_header(&bytes[..]).unwrap(), header);
            let member = member_of(member.0, member.1, member.2);
            let mut bytes = Vec::new();
            Codec.encode_member(&member, &mut bytes).unwrap();
            prop_assert_eq!(Codec.decode_member(&bytes[..]).unwrap(), member);
            for end in 0..bytes.len() {
                prop_assert!(Codec.decode_member(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = glance(&bytes);
        }
    }
}

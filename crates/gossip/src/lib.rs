//! Hints about nodes and groups, spread by gossip. *Gossip never decides anything*: what is here may be late, partial or
//! wrong, and whoever acts on it asks the groups concerned, whose logs decide.
//!
//! No clock, no socket, no thread, no chance of its own: [`Gossip`] is handed the time, a seed and the datagrams that came
//! in, and hands out datagrams, events and its next deadline. The simulator and a node run the same code.
//!
//! ```text
//!   hello of a peer ──▶ meet        ┌────────┐ ──▶ outgoing: (node, address, bytes)
//!   a peer's bytes ───▶ handle ───▶ │ Gossip │ ──▶ events: up, suspect, down, forgotten, profile
//!   the time ─────────▶ tick ─────▶ └────────┘ ──▶ nodes, descriptors, descriptors_changed_since
//!   own state ────────▶ set_profile, set_load, learn_descriptors
//! ```
//!
//! # What spreads, and how
//!
//! | what | how | how fast | cost when nothing happens |
//! | --- | --- | --- | --- |
//! | who lives | SWIM with suspicion (the `foca` library): probes, indirect probes, piggybacked updates | a few periods | a probe and its answer each period |
//! | [`Profile`]s, descriptors | as rumours, a logarithm of times from each node that hears; then by exchanges | as rumours about a second | nothing |
//! | the same, for newcomers and whoever missed a rumour | exchanges: each period two nodes compare what they know | a logarithm of periods | two digests each period |
//! | [`Load`]s | a few of them ride on each datagram, those heard last first | grows with the number of nodes | a constant |
//!
//! **Why not the library's custom broadcasts.** They are owned by a handler inside the library, where the tables would have
//! to live under a lock; each packet sorts through the whole backlog; and what is lost once is lost. Here a rumour is no more
//! than a key: what is sent is what is known when it is sent, so a newer version takes the place of an older one by
//! itself. The backlog is bounded, since exchanges deliver whatever rumours do not.
//!
//! **Exchanges.** Both tables are sets of (key, version). Nodes compare counts and sums of spans of keys, split
//! those that differ, and send what the other lacks: bytes follow the difference, not the size of the tables. A node that knows
//! nothing is sent everything, a few datagrams at a time, as fast as it takes them in.
//!
//! **Loads** change all the time, so comparing them would cost as much as sending them.
//!
//! # Lives
//!
//! A node in one of its lives is an [`Identity`]: id, boot counter, a bump, an address. A later life takes the place of an
//! earlier one at once, whatever was thought of that. A node that is told of its own death bumps and is back; so does one whose
//! address changes. Death is final for an identity, so no late rumour revives the dead.
//!
//! Who is down is kept, with since when, until [`Settings::forget_after`], and is told of in exchanges for half as long, with the
//! age: so that a node that starts later knows for how long another has been gone, and so that two nodes do not go on reminding each
//! other. Addresses are kept longer than deaths, and one that is missing is tried now and then: the two sides of a
//! partition find together however long it lasted.
//!
//! A suspicion goes about as a rumour, which may miss the one who could deny it. So whoever suspects a node says so to that node
//! itself, once each period. A node that is told over and over that it is dead, because another runs under its id, waits
//! longer each time before it argues.
//!
//! A process that was stopped for a while puts off what it waited for: that nobody answered meanwhile says nothing about them.
//!
//! # Bounds
//!
//! Datagrams, nodes, groups, rumours, contacts, events and replies all have a limit with a name. The tables refuse what is over
//! theirs; the longest dead make room for new nodes.

mod contacts;
mod exchange;
mod gossip;
mod groups;
mod hint;
mod identity;
mod node_hints;
mod nodes;
mod receive;
mod rumors;
mod send;
mod settings;
mod swim;
mod wire;

pub use gossip::{Counters, Gossip, MAX_EVENTS, Outgoing, StartError};
pub use hint::{Flags, Load, MAX_ZONE_BYTES, MAX_ZONES, Profile, Told, ZoneTrip};
pub use identity::{Identity, MAX_ADDRESS_BYTES};
pub use nodes::{Event, Node, State};
pub use settings::{MIN_DATAGRAM_BYTES, Settings, SettingsError};
pub use wire::{FORMAT_VERSION, MAX_DATAGRAM_BYTES, Rejected};

//! Small sets: members, positions of the ring, and what a store holds of them.

use std::fmt;

/// How many nodes there are at most.
pub const NODES: usize = 4;

/// A node, by its place in [`State::nodes`](crate::state::State::nodes).
pub type NodeIndex = usize;

/// A set of nodes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Members(pub u8);

impl Members {
    /// Nobody.
    pub const NONE: Members = Members(0);

    /// The nodes before this one.
    pub const fn first(count: usize) -> Members {
        Members((1 << count) - 1)
    }

    /// Whether the node is one of them.
    pub const fn contains(self, node: NodeIndex) -> bool {
        self.0 & (1 << node) != 0
    }

    /// These and the node.
    #[must_use]
    pub const fn with(self, node: NodeIndex) -> Members {
        Members(self.0 | (1 << node))
    }

    /// These but the node.
    #[must_use]
    pub const fn without(self, node: NodeIndex) -> Members {
        Members(self.0 & !(1 << node))
    }

    /// How many they are.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether `votes` holds more than half of them.
    pub const fn majority_in(self, votes: Members) -> bool {
        2 * (self.0 & votes.0).count_ones() > self.count()
    }

    /// Whether all of these are among the others.
    pub const fn within(self, others: Members) -> bool {
        self.0 & !others.0 == 0
    }

    /// They, one after the other.
    pub fn iter(self) -> impl Iterator<Item = NodeIndex> {
        (0..NODES).filter(move |node| self.contains(*node))
    }

    /// Every majority that is none without any one of its members.
    pub fn least_majorities(self) -> impl Iterator<Item = Members> {
        let needed = self.count() / 2 + 1;
        (1..1 << NODES).map(Members).filter(move |set: &Members| set.within(self) && set.count() == needed)
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{")?;
        for node in self.iter() {
            write!(f, "{}", node_name(node))?;
        }
        write!(f, "}}")
    }
}

/// What a node is called in traces: A, B, C, D.
pub fn node_name(node: NodeIndex) -> char {
    ['A', 'B', 'C', 'D'].get(node).copied().unwrap_or('?')
}

/// A set of the ring's three positions. In the beginning `G` owns the first and `S` the other two; the second lies next to
/// the boundary.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Positions(pub u8);

impl Positions {
    /// None of them.
    pub const NONE: Positions = Positions(0);
    /// The position that `G` owns in the beginning.
    pub const FIRST: Positions = Positions(1);
    /// The position of `S` next to the boundary: what a repartition moves.
    pub const BOUNDARY: Positions = Positions(2);
    /// The position of `S` away from the boundary.
    pub const LAST: Positions = Positions(4);

    /// Each position alone.
    pub const EACH: [Positions; 3] = [Self::FIRST, Self::BOUNDARY, Self::LAST];

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Positions) -> Positions {
        Positions(self.0 | other.0)
    }

    /// These but the others.
    #[must_use]
    pub const fn minus(self, other: Positions) -> Positions {
        Positions(self.0 & !other.0)
    }

    /// Whether all of the others are among these.
    pub const fn covers(self, other: Positions) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether the two have one in common.
    pub const fn meets(self, other: Positions) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All that could ever be written at these positions.
    pub const fn all_data(self) -> Data {
        let mut bits = 0;
        let mut place = 0;
        while place < 3 {
            if self.0 & (1 << place) != 0 {
                bits |= DATA[place];
            }
            place += 1;
        }
        Data(bits)
    }

    /// What lies at these positions before anything happens.
    pub const fn first_data(self) -> Data {
        let all = self.all_data().0;
        Data(all & FIRST_DATA)
    }
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["first", "boundary", "last"];
        f.debug_set().entries(names.iter().enumerate().filter(|(i, _)| self.0 & (1 << i) != 0).map(|(_, n)| n)).finish()
    }
}

/// The bits of [`Data`] that lie at each position: the lowest is there from the beginning, each other is one write.
const DATA: [u8; 3] = [0b0000_0001, 0b0001_1110, 0b1110_0000];
const FIRST_DATA: u8 = 0b0010_0011;

/// What a store holds: for each position what was there from the beginning, and each write.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Data(pub u8);

impl Data {
    /// Nothing.
    pub const NONE: Data = Data(0);

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Data) -> Data {
        Data(self.0 | other.0)
    }

    /// What of it lies at the positions.
    #[must_use]
    pub const fn at(self, positions: Positions) -> Data {
        Data(self.0 & positions.all_data().0)
    }

    /// What of it lies elsewhere.
    #[must_use]
    pub const fn outside(self, positions: Positions) -> Data {
        Data(self.0 & !positions.all_data().0)
    }

    /// Whether all of the other is in it.
    pub const fn holds(self, other: Data) -> bool {
        other.0 & !self.0 == 0
    }

    /// Where a single write lies.
    pub fn position(self) -> Positions {
        Positions::EACH.into_iter().find(|p| p.all_data().holds(self)).unwrap_or(Positions::NONE)
    }

    /// The write at that position with this number, if there is room for so many.
    pub fn write(position: Positions, number: u8) -> Option<Data> {
        let lowest = position.first_data().0;
        let bit = Data(lowest.checked_shl(u32::from(number) + 1)?);
        (bit.0 != 0 && position.all_data().holds(bit)).then_some(bit)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08b}", self.0)
    }
}

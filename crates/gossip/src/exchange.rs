//! Comparing what two nodes know, so that both end up knowing it, at a cost that follows the difference.
//!
//! What a node knows is, for each [`Kind`], a set of elements: a key and a version. Two nodes compare *spans* of keys. A span
//! is told in short, as a count and a sum over its elements, or in full, as the list of them. Equal sums end the
//! matter; unequal ones are answered by the sums of sixteen smaller spans, and small spans by their lists. A list is
//! answered by what its sender lacks, and by asking for what the answerer lacks.
//!
//! ```text
//! A                                              B
//!   | nodes: 40 of sum x; groups: 900 of sum y ->  |   nodes equal: nothing to say
//!   | <----------- groups, 16 spans with their sums |
//!   | this span: 29 keys with their versions ----> |   the other 15 spans were equal
//!   | <-------- descriptor of one; I want another   |
//!   | its descriptor ----------------------------> |
//! ```
//!
//! Nothing is remembered between datagrams: each carries what its answer needs and how many rounds are left, so that it may
//! be lost, come twice, or come from somebody with odd ideas.

use scatter_core::{codec_enum, codec_struct};
use xxhash_rust::xxh3::xxh3_64;

/// Into how many parts a span is split.
const PARTS: usize = 16;

/// The most elements of a span that is told in full.
pub(crate) const MAX_LISTED: usize = 32;

/// How many answers may follow the first datagram: enough to get from the whole table to single elements.
pub(crate) const MAX_ROUNDS: u8 = 10;

/// Of what the elements are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// Nodes. Their versions are ordered: the greater is the newer.
    Node,
    /// Groups. Their versions only tell same from other: each part of a descriptor has its own order.
    Group,
}

codec_enum!(Kind { 1 => Node, 2 => Group });

/// One thing known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Element {
    pub(crate) key: u64,
    pub(crate) version: u128,
}

codec_struct!(Element { key, version });

/// Keys from one to another, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) kind: Kind,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

codec_struct!(Span { kind, from, to });

impl Span {
    /// All keys.
    pub(crate) const fn whole(kind: Kind) -> Self {
        Self { kind, from: 0, to: u64::MAX }
    }
}

/// A span in short.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Digest {
    pub(crate) count: u32,
    pub(crate) sum: u64,
}

codec_struct!(Digest { count, sum });

impl Digest {
    /// The digest of elements.
    pub(crate) fn of(elements: &[Element]) -> Self {
        elements.iter().fold(Self::default(), |digest, element| {
            let mut bytes = [0; 24];
            bytes[..8].copy_from_slice(&element.key.to_le_bytes());
            bytes[8..].copy_from_slice(&element.version.to_le_bytes());
            Self { count: digest.count.saturating_add(1), sum: digest.sum.wrapping_add(xxh3_64(&bytes)) }
        })
    }
}

/// What somebody has in a span.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Compare {
    /// In short.
    Digest { span: Span, digest: Digest },
    /// In full, by rising key.
    List { span: Span, elements: Vec<Element> },
}

codec_enum!(Compare { 1 => Digest { span, digest }, 2 => List { span, elements } });

impl Compare {
    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Digest { span, .. } | Self::List { span, .. } => *span,
        }
    }
}

/// What is to be said to a comparison.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Answer {
    /// Smaller spans.
    pub(crate) compares: Vec<Compare>,
    /// Keys of what the other lacks.
    pub(crate) push: Vec<u64>,
    /// Keys of what this side lacks.
    pub(crate) want: Vec<u64>,
}

/// Answers a comparison; `own` is what this side has in its span, by rising key.
pub(crate) fn answer(theirs: &Compare, own: &[Element]) -> Answer {
    match theirs {
        Compare::Digest { digest, .. } if *digest == Digest::of(own) => Answer::default(),
        Compare::Digest { span, digest } if digest.count == 0 => answer_list(*span, &[], own),
        Compare::Digest { span, .. } if own.len() <= MAX_LISTED => {
            Answer { compares: vec![Compare::List { span: *span, elements: own.to_vec() }], ..Answer::default() }
        }
        Compare::Digest { span, .. } => Answer { compares: split(*span, own), ..Answer::default() },
        Compare::List { span, elements } => answer_list(*span, elements, own),
    }
}

/// The sums of the parts of a span. Each part holds about as many elements, wherever in the span they lie.
fn split(span: Span, own: &[Element]) -> Vec<Compare> {
    let chunks: Vec<&[Element]> = own.chunks(own.len().div_ceil(PARTS).max(1)).collect();
    let starts = chunks.iter().map(|chunk| chunk[0].key);
    let ends = starts.clone().skip(1).map(|next| next - 1).chain([span.to]);
    // What lies before the first element belongs to the first part.
    let starts = std::iter::once(span.from).chain(starts.skip(1));
    let spans = starts.zip(ends).map(|(from, to)| Span { from, to, ..span });
    spans.zip(&chunks).map(|(span, chunk)| Compare::Digest { span, digest: Digest::of(chunk) }).collect()
}

fn answer_list(span: Span, theirs: &[Element], own: &[Element]) -> Answer {
    let mut answer = Answer::default();
    let rising = theirs.windows(2).all(|pair| pair[0].key < pair[1].key);
    let inside = theirs.iter().all(|element| (span.from..=span.to).contains(&element.key));
    if !rising || !inside {
        return answer;
    }
    let find = |elements: &[Element], key| {
        elements.binary_search_by_key(&key, |element| element.key).ok().map(|index| elements[index].version)
    };
    let newer = |this: u128, other: Option<u128>| match (span.kind, other) {
        (_, None) => true,
        (Kind::Node, Some(other)) => this > other,
        (Kind::Group, Some(other)) => this != other,
    };
    answer.push = own.iter().filter(|own| newer(own.version, find(theirs, own.key))).map(|own| own.key).collect();
    answer.want =
        theirs.iter().filter(|theirs| newer(theirs.version, find(own, theirs.key))).map(|it| it.key).collect();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Set = BTreeMap<u64, u128>;

    fn within(set: &Set, span: Span) -> Vec<Element> {
        set.range(span.from..=span.to).map(|(key, version)| Element { key: *key, version: *version }).collect()
    }

    /// Lets two sets of nodes talk until nobody has anything to say. Returns how many rounds it took.
    fn reconcile(one: &mut Set, other: &mut Set) -> usize {
        let span = Span::whole(Kind::Node);
        let mut said = vec![Compare::Digest { span, digest: Digest::of(&within(one, span)) }];
        let mut rounds = 0;
        let (mut speaker, mut hearer) = (&mut *one, &mut *other);
        while !said.is_empty() {
            rounds += 1;
            let mut next = Vec::new();
            for compare in said {
                let answer = answer(&compare, &within(hearer, compare.span()));
                for key in answer.push {
                    speaker.insert(key, hearer[&key]);
                }
                for key in answer.want {
                    hearer.insert(key, speaker[&key]);
                }
                next.extend(answer.compares);
            }
            said = next;
            std::mem::swap(&mut speaker, &mut hearer);
        }
        rounds
    }

    #[test]
    fn who_knows_nothing_is_told_everything_at_once() {
        let (mut one, mut other) = (Set::new(), (0..1000).map(|key| (key, 1)).collect());
        assert_eq!(reconcile(&mut one, &mut other), 1);
        assert_eq!(one.len(), 1000);
        assert_eq!(reconcile(&mut one, &mut other), 1, "equal sets say so with one digest");
    }

    #[test]
    fn one_difference_among_many_is_found_in_a_few_rounds() {
        let mut one: Set = (0..20_000).map(|key| (key * 7919, 1)).collect();
        let mut other = one.clone();
        other.insert(7919 * 77, 2);
        one.insert(u64::MAX, 5);
        let rounds = reconcile(&mut one, &mut other);
        assert_eq!(one, other);
        assert!(rounds < usize::from(MAX_ROUNDS), "{rounds} rounds");
    }

    #[test]
    fn versions_of_groups_only_differ() {
        let span = Span::whole(Kind::Group);
        let element = |version| vec![Element { key: 1, version }];
        let said = Compare::List { span, elements: element(9) };
        let both = answer(&said, &element(4));
        assert_eq!((both.push, both.want), (vec![1], vec![1]));
        assert_eq!(answer(&said, &element(9)), Answer::default());
    }

    #[test]
    fn a_list_out_of_order_or_outside_its_span_is_ignored() {
        let span = Span { kind: Kind::Node, from: 5, to: 9 };
        let element = |key| Element { key, version: 1 };
        for elements in [vec![element(7), element(6)], vec![element(6), element(6)], vec![element(10)]] {
            assert_eq!(answer(&Compare::List { span, elements }, &[element(8)]), Answer::default());
        }
    }

    proptest! {
        #[test]
        fn any_two_sets_become_equal(
            one in prop::collection::btree_map(0_u64..600, 1_u128..4, 0..300),
            other in prop::collection::btree_map(0_u64..600, 1_u128..4, 0..300),
        ) {
            let newest = one.iter().chain(&other).fold(Set::new(), |mut newest, (key, version)| {
                let known = newest.entry(*key).or_default();
                *known = (*known).max(*version);
                newest
            });
            let (mut one, mut other) = (one, other);
            reconcile(&mut one, &mut other);
            prop_assert_eq!(&one, &newest);
            prop_assert_eq!(&other, &newest);
        }
    }
}

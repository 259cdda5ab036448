//! News to pass on: only *what* changed is noted, and what is sent is what is known when it is sent.

use crate::exchange::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// The most rumours at a time. What is beyond that is left to exchanges.
pub(crate) const MAX_RUMORS: usize = 1024;

/// What changed.
pub(crate) type Topic = (Kind, u64);

/// News to pass on, each a few times, what was passed on least first.
#[derive(Default)]
pub(crate) struct Rumors {
    /// How often each was passed on, and in which order they came.
    topics: BTreeMap<Topic, (u8, u64)>,
    order: BTreeSet<(u8, u64, Topic)>,
    next: u64,
}

impl Rumors {
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Something changed.
    pub(crate) fn add(&mut self, topic: Topic) {
        self.drop_topic(topic);
        if self.topics.len() >= MAX_RUMORS
            && let Some((_, _, most_told)) = self.order.last().copied()
        {
            self.drop_topic(most_told);
        }
        self.place(topic, 0);
    }

    /// Somebody was told, or told this node what it knew already.
    pub(crate) fn told(&mut self, topic: Topic, most: u8) {
        let Some((times, _)) = self.topics.get(&topic).copied() else { return };
        self.drop_topic(topic);
        if times + 1 < most {
            self.place(topic, times + 1);
        }
    }

    /// There is nothing more to tell about that.
    pub(crate) fn drop_topic(&mut self, topic: Topic) {
        if let Some((times, order)) = self.topics.remove(&topic) {
            self.order.remove(&(times, order, topic));
        }
    }

    /// What is to be told next, at most so many.
    pub(crate) fn next(&self, count: usize) -> Vec<Topic> {
        self.order.iter().take(count).map(|(_, _, topic)| *topic).collect()
    }

    fn place(&mut self, topic: Topic, times: u8) {
        self.next += 1;
        self.topics.insert(topic, (times, self.next));
        self.order.insert((times, self.next, topic));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_a_few_times_and_the_least_told_first() {
        let mut rumors = Rumors::default();
        let (one, other) = ((Kind::Node, 1), (Kind::Group, 1));
        rumors.add(one);
        rumors.add(other);
        assert_eq!(rumors.next(9), [one, other]);
        rumors.told(one, 2);
        assert_eq!(rumors.next(9), [other, one]);
        rumors.told(one, 2);
        assert_eq!(rumors.next(9), [other]);
        rumors.told(one, 2);
        rumors.told(other, 1);
        assert!(rumors.is_empty());
    }

    #[test]
    fn there_are_only_so_many_and_the_most_told_makes_room() {
        let mut rumors = Rumors::default();
        for key in 0..MAX_RUMORS as u64 {
            rumors.add((Kind::Group, key));
        }
        rumors.told((Kind::Group, 5), 9);
        rumors.add((Kind::Group, u64::MAX));
        assert_eq!(rumors.topics.len(), MAX_RUMORS);
        assert_eq!(rumors.order.len(), MAX_RUMORS);
        assert!(!rumors.topics.contains_key(&(Kind::Group, 5)));
    }
}

//! The network between hosts: every packet may be late, lost, doubled or overtaken, and links may be cut one way.

use crate::history::Time;
use crate::random::Random;

/// How well packets travel.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// The least time on the way, in nanoseconds.
    pub delay_least: Time,
    /// What may come on top.
    pub delay_spread: Time,
    /// Chance in a thousand of a delay far above that, up to `straggle_most`.
    pub straggle_permille: u32,
    /// The most a straggler takes.
    pub straggle_most: Time,
    /// Chance in a thousand to vanish.
    pub loss_permille: u32,
    /// Chance in a thousand to arrive twice.
    pub double_permille: u32,
    /// Chance in a thousand to be overtaken by later packets.
    pub reorder_permille: u32,
}

/// What a cut link does with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// They vanish.
    Drop,
    /// They wait until the link is whole again, as retransmission would have it.
    Hold,
}

/// One direction between two hosts.
#[derive(Clone, Debug, Default)]
struct Link {
    /// How many faults cut it, dropping.
    dropping: u32,
    /// How many faults cut it, holding.
    holding: u32,
    /// Nothing overtakes what arrives then, unless it is reordered.
    last_arrival: Time,
}

/// What becomes of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It vanishes.
    Lost,
    /// It arrives, once or twice.
    Arrives(Time, Option<Time>),
    /// It waits for the link to be whole.
    Held,
}

/// All links. Hosts are numbered; the last numbers are clients.
#[derive(Debug)]
pub struct Network {
    quality: Quality,
    usual: Quality,
    hosts: usize,
    links: Vec<Link>,
    random: Random,
}

impl Network {
    /// Whole links between `hosts`.
    #[must_use]
    pub fn new(hosts: usize, quality: Quality, random: Random) -> Self {
        Self { quality, usual: quality, hosts, links: vec![Link::default(); hosts * hosts], random }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.hosts + to]
    }

    /// Decides what becomes of a packet sent at `now`.
    pub fn send(&mut self, from: usize, to: usize, now: Time) -> Fate {
        let quality = self.quality;
        let link = &self.links[from * self.hosts + to];
        if link.dropping > 0 {
            return Fate::Lost;
        }
        if link.holding > 0 {
            return Fate::Held;
        }
        if self.random.permille(quality.loss_permille) {
            return Fate::Lost;
        }
        let mut arrival = now + self.delay(quality);
        if !self.random.permille(quality.reorder_permille) {
            let link = self.link(from, to);
            arrival = arrival.max(link.last_arrival + 1);
            link.last_arrival = arrival;
        }
        let second = self.random.permille(quality.double_permille).then(|| {
            let again = if self.random.permille(200) { quality.straggle_most } else { quality.delay_spread };
            arrival + self.random.below(again + 1)
        });
        Fate::Arrives(arrival, second)
    }

    fn delay(&mut self, quality: Quality) -> Time {
        let usual = quality.delay_least + self.random.below(quality.delay_spread + 1);
        if self.random.permille(quality.straggle_permille) {
            usual + self.random.spread(quality.delay_spread.max(1), quality.straggle_most.max(2))
        } else {
            usual
        }
    }

    /// When a packet that was held arrives, the link being whole since `now`.
    pub fn release(&mut self, now: Time) -> Time {
        now + self.delay(self.quality)
    }

    /// Whether packets sent from `from` to `to` cannot arrive for the time being.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        let link = &self.links[from * self.hosts + to];
        link.dropping > 0 || link.holding > 0
    }

    /// Cuts one direction. Cuts add up: each is mended on its own.
    pub fn cut(&mut self, from: usize, to: usize, how: Cut) {
        let link = self.link(from, to);
        match how {
            Cut::Drop => link.dropping += 1,
            Cut::Hold => link.holding += 1,
        }
    }

    /// Takes one cut back.
    pub fn mend(&mut self, from: usize, to: usize, how: Cut) {
        let link = self.link(from, to);
        match how {
            Cut::Drop => link.dropping = link.dropping.saturating_sub(1),
            Cut::Hold => link.holding = link.holding.saturating_sub(1),
        }
    }

    /// For a while packets travel like this.
    pub fn worsen(&mut self, quality: Quality) {
        self.quality = quality;
    }

    /// Packets travel as usual again.
    pub fn recover(&mut self) {
        self.quality = self.usual;
    }

    /// How packets usually travel.
    #[must_use]
    pub fn usual(&self) -> Quality {
        self.usual
    }

    /// Every link is whole and nothing is lost, doubled or late from this moment on.
    pub fn heal(&mut self) {
        for link in &mut self.links {
            link.dropping = 0;
            link.holding = 0;
        }
        self.usual.loss_permille = 0;
        self.usual.double_permille = 0;
        self.usual.straggle_permille = 0;
        self.recover();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Quality = Quality {
        delay_least: 100,
        delay_spread: 50,
        straggle_permille: 0,
        straggle_most: 0,
        loss_permille: 0,
        double_permille: 0,
        reorder_permille: 0,
    };

    #[test]
    fn a_calm_network_keeps_order() {
        let mut network = Network::new(2, CALM, Random::new(1));
        let mut last = 0;
        for now in 0..1_000 {
            let Fate::Arrives(at, None) = network.send(0, 1, now) else { panic!("lost or doubled") };
            assert!(at > last && at >= now + 100);
            last = at;
        }
    }

    #[test]
    fn cuts_go_one_way_and_add_up() {
        let mut network = Network::new(2, CALM, Random::new(1));
        network.cut(0, 1, Cut::Drop);
        network.cut(0, 1, Cut::Hold);
        assert_eq!(network.send(0, 1, 0), Fate::Lost);
        assert!(matches!(network.send(1, 0, 0), Fate::Arrives(..)));
        network.mend(0, 1, Cut::Drop);
        assert_eq!(network.send(0, 1, 0), Fate::Held);
        network.mend(0, 1, Cut::Hold);
        assert!(!network.is_cut(0, 1));
        assert!(matches!(network.send(0, 1, 0), Fate::Arrives(..)));
    }
}

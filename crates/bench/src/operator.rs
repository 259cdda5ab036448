//! An operator at the admin program: sees the ring, gives orders to groups.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::interrupt::{self, Interrupted};
use crate::probe;

/// How long an order may take: longer than the admin program waits for it.
const ORDER_LIMIT: Duration = Duration::from_secs(90);
/// How long the ring may take to be as it shall be.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// How long an order that found its group busy is repeated.
const REPEAT_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// So many beginnings of positions there are, eight bytes each.
const AROUND: u128 = 1 << 64;

/// Why something could not be ordered.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The admin program was not reached.
    #[error("the admin program: {0}")]
    Io(#[from] std::io::Error),
    /// The order was not carried out.
    #[error("{what}: status {status}: {text}")]
    Refused {
        /// The order.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What was said.
        text: String,
    },
    /// The ring does not become what it should.
    #[error("the ring has not come to rest with {wanted} groups in time: {found}")]
    Unsettled {
        /// How many groups there should be.
        wanted: usize,
        /// What there is.
        found: String,
    },
    /// The user asked the program to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// One group as the ring shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// Where its range begins, and where it ends; past the last position it goes on from the first.
    pub span: (u128, u128),
    /// The id of the node that leads it; empty if nobody does.
    pub leader: String,
    /// The ids of its members.
    pub members: Vec<String>,
}

/// An operator at one admin program.
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// Where the admin program serves.
    pub admin: SocketAddr,
}

impl Operator {
    fn ring(&self) -> Result<Value, OrderError> {
        let (status, body) = probe::get(self.admin, "/v1/ring", ORDER_LIMIT)?;
        judged("the ring", status, &body)
    }

    /// Waits until the ring is whole and at rest with `count` groups; gives them in ring order.
    pub fn settled(&self, count: usize) -> Result<Vec<Group>, OrderError> {
        let patience = Instant::now() + SETTLE_LIMIT;
        loop {
            let ring = self.ring()?;
            let groups = ring["groups"].as_array().cloned().unwrap_or_default();
            let at_rest = groups.iter().all(|group| group["pending"].is_null() && group["leader"].is_string());
            let problems = ring["problems"].to_string();
            if groups.len() == count && at_rest && problems == "[]" {
                return Ok(groups.iter().map(Group::parse).collect());
            }
            if Instant::now() >= patience {
                let problems: String = problems.chars().take(400).collect();
                let found = format!("{} groups, at rest: {at_rest}, problems: {problems}", groups.len());
                return Err(OrderError::Unsettled { wanted: count, found });
            }
            interrupt::sleep(LOOK_AGAIN)?;
        }
    }

    /// Gives an order and waits until it is carried out.
    pub fn order(&self, group: &Group, what: &str, body: &Value) -> Result<Value, OrderError> {
        let path = format!("/v1/groups/{}/{what}", group.id);
        let (status, answer) = probe::post(self.admin, &path, &body.to_string(), ORDER_LIMIT)?;
        judged(&format!("{what} of {} with {body}", group.id), status, &answer)
    }

    /// The same, again and again while it is refused for now.
    fn insist(&self, group: &Group, what: &str, body: &Value) -> Result<Value, OrderError> {
        let patience = Instant::now() + REPEAT_LIMIT;
        loop {
            match self.order(group, what, body) {
                // Not found: the node that knows it was too slow to be in the picture.
                Err(OrderError::Refused { status: 404 | 409 | 503, .. }) if Instant::now() < patience => {
                    interrupt::sleep(LOOK_AGAIN)?;
                }
                said => return said,
            }
        }
    }

    /// Makes one group into `count` of the same size, led by `nodes` in turn (the first of them by the first node, and so on,
    /// in so many runs of neighbours as there are nodes).
    pub fn split_evenly(&self, count: usize, nodes: &[String]) -> Result<(), OrderError> {
        let runs = nodes.len().min(count);
        let boundary = |part: usize, parts: usize| AROUND * part as u128 / parts as u128;
        let starts: Vec<u128> = (0..count).map(|part| boundary(part, count)).collect();
        // First as many as there are leaders: whoever splits off is led where it came from.
        let firsts: Vec<u128> = (0..runs).map(|run| starts[run * count / runs]).collect();
        self.split_at(&firsts)?;
        for (group, node) in self.settled(runs)?.iter().zip(nodes) {
            if group.leader != *node {
                self.insist(group, "transfer-leader", &json!({ "to": node }))?;
            }
        }
        self.split_at(&starts)
    }

    /// Splits until groups begin at all of `starts`, in halves.
    fn split_at(&self, starts: &[u128]) -> Result<(), OrderError> {
        let mut told = Instant::now();
        let mut groups = self.settled(self.count()?)?;
        while groups.len() < starts.len() {
            for group in &groups {
                let inside: Vec<u128> =
                    starts.iter().copied().filter(|at| *at > group.span.0 && *at < group.span.1).collect();
                if let Some(at) = inside.get(inside.len() / 2) {
                    self.insist(group, "split", &json!({ "at": position(*at) }))?;
                }
                if told.elapsed() > Duration::from_secs(10) {
                    eprintln!("splitting: {} groups and more of {}", groups.len(), starts.len());
                    told = Instant::now();
                }
            }
            groups = self.settled(self.count()?)?;
        }
        Ok(())
    }

    fn count(&self) -> Result<usize, OrderError> {
        Ok(self.ring()?["groups"].as_array().map_or(0, Vec::len))
    }
}

fn judged(what: &str, status: u16, body: &[u8]) -> Result<Value, OrderError> {
    if status == 200
        && let Ok(value) = serde_json::from_slice(body)
    {
        return Ok(value);
    }
    let text = String::from_utf8_lossy(body).chars().take(400).collect();
    Err(OrderError::Refused { what: what.to_owned(), status, text })
}

impl Group {
    fn parse(group: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let number = |value: &Value| {
            let digits = format!("{:0<16}", value.as_str().unwrap_or_default());
            u128::from_str_radix(&digits[..16], 16).unwrap_or(0)
        };
        let (start, end) = (number(&group["range"]["start"]), number(&group["range"]["end"]));
        let members = group["members"].as_array().cloned().unwrap_or_default();
        Self {
            id: text(&group["id"]),
            span: (start, if end > start { end } else { end + AROUND }),
            leader: text(&group["leader"]),
            members: members.iter().map(|member| text(&member["node"])).collect(),
        }
    }
}

/// The position that begins with these eight bytes, without zeroes at its end: such are no boundaries.
fn position(number: u128) -> String {
    let digits = format!("{:016x}", number % AROUND);
    let mut digits = digits.as_str();
    while let Some(shorter) = digits.strip_suffix("00") {
        digits = shorter;
    }
    digits.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_positions_are_read_as_the_ring_shows_them() {
        let group = Group::parse(&json!({
            "id": "a", "range": { "start": "c0", "end": "40" }, "leader": "1", "members": [{ "node": "1" }, { "node": "2" }],
        }));
        assert_eq!(group.span, (3 << 62, AROUND + (1 << 62)));
        assert_eq!((group.leader.as_str(), group.members.len()), ("1", 2));
        assert_eq!(position(1 << 63), "80");
        assert_eq!(position(AROUND / 3), "5555555555555555");
    }
}

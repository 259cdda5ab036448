//! One write and its attempts: what may be said of it at every moment.
//!
//! ```text
//!   send ──► open ──┬─ never left / refused / not owner ──► as if it had not been sent
//!                   ├─ no answer ─────────────────────────► lost: it may be applied, also much later
//!                   ├─ forgotten / stamp ahead ───────────► not applied, and no repeat under this stamp would be
//!                   └─ an outcome ────────────────────────► done
//! ```
//!
//! All attempts of a write carry the same lane, sequence and stamp, so the group applies at most one of them and answers
//! the others with the recorded outcome. Two rules follow. *Not applied* is said only if every attempt was definitely
//! refused: a clean refusal of the second attempt says nothing about the first one. And a write takes a new stamp (and a
//! new sequence) only while no earlier attempt can still be applied; otherwise the outcome is *unknown*.
//!
//! The machine is pure: it knows neither clock nor network.

use scatter_core::command::Outcome;
use scatter_core::types::Version;

/// How one attempt ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It never left this process: the connection was refused, or reached another node.
    NotSent,
    /// The node says that it neither applied nor will apply this attempt.
    Refused,
    /// It was sent and will not be answered, or its node cannot tell what became of it.
    Lost,
    /// What the group's log says of it.
    Outcome(Outcome),
}

/// What a failed write is known to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Certainty {
    /// Every attempt was definitely refused; nothing changed and nothing will.
    NotApplied,
    /// At least one attempt may have been applied, or may still be.
    Unknown,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Another attempt may be sent, the same in every byte.
    Again,
    /// Nothing was applied: begin anew, with the next sequence of the lane and this stamp.
    Renew {
        /// A stamp that the group said it would accept.
        stamp: Version,
    },
    /// No attempt can help any more, but one that is still open may yet bring the answer.
    Wait,
    /// The group's answer.
    Done(Outcome),
    /// No attempt can help any more.
    Failed(Certainty),
}

/// The attempts of one write.
#[derive(Clone, Default, Debug)]
pub struct Attempts {
    /// Sent and not answered yet.
    open: u32,
    /// Some attempt is lost: it may be applied at any time.
    lost: bool,
    /// The group will not take this lane use any more, and offered this stamp instead.
    fresh_stamp: Option<Version>,
    /// The group cannot tell, or does not understand: repeating is of no use.
    barred: bool,
}

impl Attempts {
    /// Notes that an attempt is on its way.
    pub fn sent(&mut self) {
        self.open = self.open.saturating_add(1);
    }

    /// How many attempts are on their way.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Takes in how one open attempt ended, and says what is to be done.
    pub fn ended(&mut self, answer: Answer) -> Step {
        self.open = self.open.saturating_sub(1);
        match answer {
            Answer::NotSent | Answer::Refused | Answer::Outcome(Outcome::NotOwner) => {}
            Answer::Lost => self.lost = true,
            Answer::Outcome(Outcome::Unknown) => {
                self.lost = true;
                self.barred = true;
            }
            Answer::Outcome(Outcome::Malformed) => self.barred = true,
            Answer::Outcome(Outcome::Forgotten { stamp } | Outcome::StampAhead { stamp }) => {
                self.fresh_stamp = self.fresh_stamp.max(Some(stamp));
            }
            Answer::Outcome(
                outcome @ (Outcome::Written { .. }
                | Outcome::Deleted { .. }
                | Outcome::NotFound
                | Outcome::BatchWritten { .. }
                | Outcome::ConditionFailed { .. }
                | Outcome::IdempotencyMismatch),
            ) => return Step::Done(outcome),
        }
        self.next()
    }

    fn next(&self) -> Step {
        if !self.barred && self.fresh_stamp.is_none() {
            return Step::Again;
        }
        if self.open > 0 {
            return Step::Wait;
        }
        match (self.lost, self.barred, self.fresh_stamp) {
            (false, false, Some(stamp)) => Step::Renew { stamp },
            _ => Step::Failed(self.give_up()),
        }
    }

    /// What must be said if no more is waited for.
    #[must_use]
    pub fn give_up(&self) -> Certainty {
        if self.lost || self.open > 0 { Certainty::Unknown } else { Certainty::NotApplied }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group that has this one write in its log at most once, as lanes promise, and a network that does its worst.
    #[derive(Clone, Default)]
    struct World {
        attempts: Attempts,
        /// For each attempt of this lane use that is open or lost: whether it may still reach the group.
        wandering: Vec<Wanderer>,
        applied: bool,
        lane_forgotten: bool,
        renewals: u32,
    }

    #[derive(Clone, Copy, PartialEq)]
    struct Wanderer {
        answered: bool,
        arrived: bool,
    }

    const WRITTEN: Outcome = Outcome::Written { version: Version(7), created: true };
    const STAMP: Version = Version(9);

    /// Walks every interleaving of sending, arriving, losing and answering up to a depth, and checks every verdict
    /// against what the group really did, including what wandering attempts may still do.
    fn explore(world: &World, depth: u32, verdicts: &mut Verdicts) {
        verdicts.check_give_up(world);
        if depth == 0 {
            return;
        }
        if world.wandering.len() < 3 {
            let mut next = world.clone();
            next.attempts.sent();
            next.wandering.push(Wanderer { answered: false, arrived: false });
            explore(&next, depth - 1, verdicts);
        }
        if !world.lane_forgotten {
            // The group may evict the lane at any time; it then remembers nothing of an applied write.
            explore(&World { lane_forgotten: true, ..world.clone() }, depth - 1, verdicts);
        }
        for (index, wanderer) in world.wandering.iter().enumerate() {
            for answer in possible_answers(world, *wanderer) {
                let mut next = world.clone();
                let refused = matches!(answer, Answer::NotSent | Answer::Refused);
                let lost = answer == Answer::Lost;
                if let Answer::Outcome(outcome) = &answer {
                    next.applied |= *outcome == WRITTEN;
                }
                if lost {
                    next.wandering[index].answered = true;
                } else {
                    next.wandering.remove(index);
                }
                let step = next.attempts.ended(answer);
                assert!(!(refused && matches!(step, Step::Done(_))));
                verdicts.check(&next, &step);
                match step {
                    Step::Again | Step::Wait => explore(&next, depth - 1, verdicts),
                    Step::Renew { .. } if next.renewals < 1 => {
                        let renewed = World { renewals: next.renewals + 1, ..World::default() };
                        explore(&renewed, depth - 1, verdicts);
                    }
                    Step::Renew { .. } | Step::Done(_) | Step::Failed(_) => {}
                }
            }
            if wanderer.answered && !wanderer.arrived {
                // A lost attempt reaches the group late. It is applied unless the lane was forgotten.
                let mut next = world.clone();
                next.wandering[index].arrived = true;
                next.applied |= !world.lane_forgotten;
                explore(&next, depth - 1, verdicts);
            }
        }
    }

    /// What an open attempt can hear from an honest node and group.
    fn possible_answers(world: &World, wanderer: Wanderer) -> Vec<Answer> {
        if wanderer.answered {
            return Vec::new();
        }
        let mut answers = vec![Answer::NotSent, Answer::Refused, Answer::Lost, Answer::Outcome(Outcome::NotOwner)];
        if world.lane_forgotten {
            answers.push(Answer::Outcome(Outcome::Forgotten { stamp: STAMP }));
        } else {
            answers.push(Answer::Outcome(WRITTEN));
            answers.push(Answer::Outcome(Outcome::Unknown));
            if !world.applied {
                answers.push(Answer::Outcome(Outcome::StampAhead { stamp: STAMP }));
                answers.push(Answer::Outcome(Outcome::Malformed));
            }
        }
        answers
    }

    #[derive(Default)]
    struct Verdicts {
        not_applied: u64,
        unknown: u64,
        renewed: u64,
        done: u64,
    }

    impl Verdicts {
        fn may_be_applied(world: &World) -> bool {
            world.applied || !world.wandering.is_empty()
        }

        fn check(&mut self, world: &World, step: &Step) {
            match step {
                Step::Renew { stamp } => {
                    self.renewed += 1;
                    assert_eq!(*stamp, STAMP);
                    assert!(!Self::may_be_applied(world), "a renewed write could be applied twice");
                }
                Step::Done(_) => self.done += 1,
                Step::Failed(Certainty::NotApplied) => {
                    self.not_applied += 1;
                    assert!(!Self::may_be_applied(world), "said not applied of what may be applied");
                }
                Step::Failed(Certainty::Unknown) => self.unknown += 1,
                Step::Wait => assert!(world.attempts.open() > 0, "waits for nothing"),
                Step::Again => {}
            }
        }

        fn check_give_up(&self, world: &World) {
            if world.attempts.give_up() == Certainty::NotApplied {
                assert!(!Self::may_be_applied(world), "gave up as not applied what may be applied");
            }
        }
    }

    #[test]
    fn no_interleaving_ends_in_a_false_verdict() {
        let mut verdicts = Verdicts::default();
        explore(&World::default(), 8, &mut verdicts);
        // The walk is worth something only if every kind of verdict was reached.
        assert!(verdicts.not_applied > 0 && verdicts.unknown > 0 && verdicts.renewed > 0 && verdicts.done > 0);
    }

    fn answered(answers: &[Answer]) -> Step {
        let mut attempts = Attempts::default();
        let mut step = Step::Again;
        for answer in answers {
            attempts.sent();
            step = attempts.ended(answer.clone());
        }
        step
    }

    #[test]
    fn a_clean_refusal_after_a_lost_attempt_stays_unknown() {
        let mut attempts = Attempts::default();
        attempts.sent();
        assert_eq!(attempts.ended(Answer::Lost), Step::Again);
        attempts.sent();
        assert_eq!(attempts.ended(Answer::Refused), Step::Again);
        assert_eq!(attempts.give_up(), Certainty::Unknown);
    }

    #[test]
    fn refusals_alone_are_not_applied() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.give_up(), Certainty::NotApplied);
        for answer in [Answer::NotSent, Answer::Refused, Answer::Outcome(Outcome::NotOwner)] {
            attempts.sent();
            assert_eq!(attempts.give_up(), Certainty::Unknown, "an open attempt may be applied");
            assert_eq!(attempts.ended(answer), Step::Again);
            assert_eq!(attempts.give_up(), Certainty::NotApplied);
        }
    }

    #[test]
    fn a_first_attempt_takes_a_new_stamp_and_a_repeat_does_not() {
        let forgotten = Answer::Outcome(Outcome::Forgotten { stamp: STAMP });
        let ahead = Answer::Outcome(Outcome::StampAhead { stamp: STAMP });
        assert_eq!(answered(std::slice::from_ref(&forgotten)), Step::Renew { stamp: STAMP });
        assert_eq!(answered(&[Answer::NotSent, forgotten.clone()]), Step::Renew { stamp: STAMP });
        assert_eq!(answered(&[Answer::Refused, ahead.clone()]), Step::Renew { stamp: STAMP });
        assert_eq!(answered(&[Answer::Lost, forgotten]), Step::Failed(Certainty::Unknown));
        assert_eq!(answered(&[Answer::Lost, ahead]), Step::Failed(Certainty::Unknown));
    }

    #[test]
    fn a_forgotten_repeat_waits_for_the_attempt_that_may_still_answer() {
        let mut attempts = Attempts::default();
        attempts.sent();
        attempts.sent();
        assert_eq!(attempts.ended(Answer::Outcome(Outcome::Forgotten { stamp: STAMP })), Step::Wait);
        assert_eq!(attempts.clone().ended(Answer::Outcome(WRITTEN)), Step::Done(WRITTEN));
        assert_eq!(attempts.ended(Answer::Lost), Step::Failed(Certainty::Unknown));
    }

    #[test]
    fn what_the_group_does_not_understand_is_not_repeated() {
        assert_eq!(answered(&[Answer::Outcome(Outcome::Malformed)]), Step::Failed(Certainty::NotApplied));
        assert_eq!(answered(&[Answer::Lost, Answer::Outcome(Outcome::Malformed)]), Step::Failed(Certainty::Unknown));
        assert_eq!(answered(&[Answer::Outcome(Outcome::Unknown)]), Step::Failed(Certainty::Unknown));
    }

    #[test]
    fn recorded_outcomes_are_final_whatever_came_before() {
        for outcome in [
            WRITTEN,
            Outcome::Deleted { version: Version(1) },
            Outcome::NotFound,
            Outcome::BatchWritten { versions: vec![] },
            Outcome::ConditionFailed { index: 0, current: None },
            Outcome::IdempotencyMismatch,
        ] {
            assert_eq!(answered(&[Answer::Lost, Answer::Outcome(outcome.clone())]), Step::Done(outcome));
        }
    }
}

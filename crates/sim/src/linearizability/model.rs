//! The sequential store that a history is compared with: what one operation may do to a few keys.

use crate::history::{Change, Guard, KeyIndex, Request, Response, ValueId, VersionNumber};

/// One key as far as the history tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Cell {
    /// Whether it exists.
    pub present: bool,
    /// Whether it may vanish by itself.
    pub expires: bool,
    /// The version of its last write; 0 if nobody ever saw it.
    pub version: VersionNumber,
    /// What the version of the last change is at least.
    pub floor: VersionNumber,
    /// Its value.
    pub value: ValueId,
}

impl Cell {
    /// What every later change's version is above.
    fn last(&self) -> VersionNumber {
        if self.version == 0 { self.floor } else { self.version }
    }

    fn absent(last: VersionNumber) -> Self {
        Self { floor: last, ..Self::default() }
    }

    /// The cell with its version known to be `version`, if it can be.
    fn with_version(self, version: VersionNumber) -> Option<Self> {
        let possible = self.present && if self.version == 0 { version >= self.floor } else { version == self.version };
        possible.then_some(Self { version, ..self })
    }

    /// Makes `guard` hold, if it can.
    fn satisfy(self, guard: Guard) -> Option<Self> {
        match guard {
            Guard::Always => Some(self),
            Guard::VersionIs(version) => self.with_version(version),
            Guard::Exists => self.present.then_some(self),
            Guard::Absent => (!self.present).then_some(self),
        }
    }

    /// Makes `guard` fail with `current` as the version told, if it can.
    fn refuse(self, guard: Guard, current: Option<VersionNumber>) -> Option<Self> {
        let cell = match current {
            None if self.present => return None,
            None => self,
            Some(version) => self.with_version(version)?,
        };
        let holds = match guard {
            Guard::Always => true,
            Guard::VersionIs(version) => cell.present && cell.version == version,
            Guard::Exists => cell.present,
            Guard::Absent => !cell.present,
        };
        (!holds).then_some(cell)
    }
}

/// The keys of one component, by local index.
pub(super) type State = Vec<Cell>;

/// An operation over the keys of one component.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// With local key indexes.
    pub request: Request,
    /// What the client heard, if anything.
    pub response: Option<Response>,
    /// Per change, the version it made if anybody knows, else 0.
    pub versions: Vec<VersionNumber>,
}

impl Step {
    /// Whether the answer says that nothing changed.
    pub(super) fn only_looks(&self) -> bool {
        self.request.is_read() || matches!(self.response, Some(Response::Absent | Response::ConditionFailed { .. }))
    }

    /// Every state in which the operation may leave `state` while answering as it did. An operation without an answer has
    /// its full effect or is not taken at all, so that no state is listed for one that would do nothing.
    pub(super) fn outcomes(&self, state: &State) -> Vec<State> {
        let mut found = Vec::new();
        for start in self.with_expiries(state) {
            if let Some(next) = self.apply(start)
                && !found.contains(&next)
            {
                found.push(next);
            }
        }
        found
    }

    /// `state`, and every state in which some of the keys concerned have vanished by themselves.
    fn with_expiries(&self, state: &State) -> Vec<State> {
        let mut starts = vec![state.clone()];
        let mut keys = self.request.keys();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let cell = state[key as usize];
            if cell.present && cell.expires {
                for index in 0..starts.len() {
                    let mut gone = starts[index].clone();
                    gone[key as usize] = Cell::absent(cell.last());
                    starts.push(gone);
                }
            }
        }
        starts
    }

    fn apply(&self, state: State) -> Option<State> {
        match &self.request {
            Request::Read(key) => self.read(state, *key),
            Request::Single(key, guard, change) => self.single(state, *key, *guard, *change),
            Request::Batch { guards, changes } => self.batch(state, guards, changes),
        }
    }

    fn read(&self, mut state: State, key: KeyIndex) -> Option<State> {
        let cell = &mut state[key as usize];
        match self.response.as_ref()? {
            Response::Value { version, value } => {
                *cell = cell.with_version(*version).filter(|cell| cell.value == *value)?;
                Some(state)
            }
            Response::Absent => (!cell.present).then_some(state),
            _ => None,
        }
    }

    fn single(&self, mut state: State, key: KeyIndex, guard: Guard, change: Change) -> Option<State> {
        let cell = &mut state[key as usize];
        let before = *cell;
        match (&self.response, change) {
            (Some(Response::ConditionFailed { index: 0, current }), _) => *cell = before.refuse(guard, *current)?,
            (Some(Response::Absent), Change::Delete) => {
                *cell = before.satisfy(guard).filter(|cell| !cell.present)?;
            }
            (Some(Response::Written { created, .. }), Change::Put { .. }) if *created == before.present => return None,
            (Some(Response::Deleted { .. }) | None, Change::Delete) if !before.present => return None,
            (Some(Response::Written { .. }) | None, Change::Put { .. })
            | (Some(Response::Deleted { .. }) | None, Change::Delete) => {
                *cell = changed(before.satisfy(guard)?, change, self.versions[0])?;
            }
            _ => return None,
        }
        Some(state)
    }

    fn batch(&self, mut state: State, guards: &[(KeyIndex, Guard)], changes: &[(KeyIndex, Change)]) -> Option<State> {
        let refused = match &self.response {
            Some(Response::ConditionFailed { index, current }) => Some((*index as usize, *current)),
            Some(Response::BatchWritten { .. }) | None => None,
            Some(_) => return None,
        };
        let kept = refused.map_or(guards.len(), |(index, _)| index);
        for (key, guard) in guards.get(..kept)? {
            state[*key as usize] = state[*key as usize].satisfy(*guard)?;
        }
        if let Some((index, current)) = refused {
            let (key, guard) = *guards.get(index)?;
            state[key as usize] = state[key as usize].refuse(guard, current)?;
            return Some(state);
        }
        for ((key, change), version) in changes.iter().zip(&self.versions) {
            state[*key as usize] = changed(state[*key as usize], *change, *version)?;
        }
        Some(state)
    }
}

/// `before` after `change`, which makes `version`, or a version nobody saw if that is 0.
fn changed(before: Cell, change: Change, version: VersionNumber) -> Option<Cell> {
    if version != 0 && version <= before.last() {
        return None;
    }
    let floor = if version == 0 { before.last() + 1 } else { version };
    Some(match change {
        Change::Put { value, expires } => Cell { present: true, expires, version, floor, value },
        Change::Delete => Cell::absent(floor),
    })
}

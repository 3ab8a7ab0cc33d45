//! A set of positions, as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

use annals_model::Position;

/// Positions, kept as half-open ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<Position, Position>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many positions.
    pub(super) fn len(&self) -> u64 {
        self.iter().map(|r| r.end - r.start).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<Position>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = Position> {
        self.iter().flatten()
    }

    pub(super) fn contains(&self, position: Position) -> bool {
        self.0.range(..=position).next_back().is_some_and(|(_, end)| position < *end)
    }

    /// The first position from `position` on that is not in it.
    pub(super) fn first_outside(&self, position: Position) -> Position {
        let at = self.0.range(..=position).next_back();
        at.filter(|(_, end)| position < **end).map_or(position, |(_, end)| *end)
    }

    pub(super) fn insert(&mut self, mut range: Range<Position>) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, end)) = self.0.range_mut(..=range.start).next_back()
            && *end >= range.start
        {
            // The common case: one more behind the last.
            if range.end <= *end {
                return;
            }
            range.start = start;
        }
        while let Some((&start, &end)) = self.0.range(range.start..=range.end).next() {
            range.end = range.end.max(end);
            self.0.remove(&start);
        }
        self.0.insert(range.start, range.end);
    }

    pub(super) fn remove(&mut self, range: Range<Position>) {
        if range.is_empty() || self.0.is_empty() {
            return;
        }
        let before = self.0.range(..range.start).next_back().map(|(s, e)| (*s, *e));
        if let Some((start, end)) = before
            && end > range.start
        {
            self.0.insert(start, range.start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
        }
        while let Some((&start, &end)) = self.0.range(range.clone()).next() {
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
        }
    }

    /// Takes away, and gives, what lies before a position.
    pub(super) fn split_below(&mut self, position: Position) -> Ranges {
        let mut below = Ranges::default();
        while let Some((&start, &end)) = self.0.first_key_value().filter(|(start, _)| **start < position) {
            self.0.remove(&start);
            below.0.insert(start, end.min(position));
            if end > position {
                self.0.insert(position, end);
            }
        }
        below
    }

    /// Takes the first range away where it begins at or before a position, and gives its end.
    pub(super) fn pop_at(&mut self, position: Position) -> Option<Position> {
        let (&start, &end) = self.0.first_key_value()?;
        (start <= position).then(|| {
            self.0.remove(&start);
            end
        })
    }
}

impl FromIterator<Range<Position>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<Position>>>(ranges: I) -> Self {
        let mut all = Ranges::default();
        ranges.into_iter().for_each(|r| all.insert(r));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_hold_what_a_set_of_positions_would(
            ops in prop::collection::vec((0..3u8, 0..40u64, 0..12u64), 0..40)
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (op, start, len) in ops {
                match op {
                    0 => {
                        ranges.insert(start..start + len);
                        set.extend(start..start + len);
                    }
                    1 => {
                        ranges.remove(start..start + len);
                        set.retain(|p| !(start..start + len).contains(p));
                    }
                    _ => {
                        let below = ranges.split_below(start);
                        let rest = set.split_off(&start);
                        prop_assert!(below.positions().eq(set.iter().copied()));
                        set = rest;
                    }
                }
                prop_assert!(ranges.positions().eq(set.iter().copied()));
                prop_assert_eq!(ranges.len(), set.len() as u64);
                for p in 0..55 {
                    prop_assert_eq!(ranges.contains(p), set.contains(&p));
                }
                // Ranges that touch are one.
                let all: Vec<_> = ranges.iter().collect();
                prop_assert!(all.windows(2).all(|w| w[0].end < w[1].start));
            }
        }
    }
}

//! A party that can't sit in one row: groups in one section in which nobody is alone.

use super::{Plan, Quality};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// So many of the best runs of a section are tried as the one that the others sit near to,
const ANCHORS: usize = 32;
/// but no more than makes so many looks at another run, and at least this many.
const LOOKS: usize = 4096;
const ANCHORS_MIN: usize = 4;

/// Free seats beside each other, at least two.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) section: u32,
    pub(super) seats: Range<u32>,
}

impl Run {
    fn len(&self) -> u32 {
        self.seats.end - self.seats.start
    }

    /// Its middle, in centimetres.
    fn middle(&self, plan: &Plan) -> (i32, i32) {
        plan.at[usize::midpoint(self.seats.start as usize, self.seats.end as usize)]
    }
}

/// How good a party's groups are; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    groups: usize,
    /// The farthest run from the first, in centimetres, squared.
    spread: u64,
    quality: Quality,
}

/// The best groups of at least two, `count` seats in all, out of free runs.
pub(super) fn best(plan: &Plan, runs: &mut [Run], count: u32) -> Option<Vec<Range<u32>>> {
    // Stable, so that the runs of a section stay in the order of their merit.
    runs.sort_by_key(|run| run.section);
    let mut best: Option<(Score, Vec<Range<u32>>)> = None;
    for section in runs.chunk_by(|a, b| a.section == b.section) {
        let Some(fewest) = fewest(section, count) else {
            continue;
        };
        if best
            .as_ref()
            .is_none_or(|(known, _)| fewest <= known.groups)
        {
            Section::new(plan, section, count).look_through(&mut best);
        }
    }
    best.map(|(_, groups)| groups)
}

/// No fewer groups of a section are so many seats; none if all of them are not.
fn fewest(runs: &[Run], count: u32) -> Option<usize> {
    if runs.iter().map(Run::len).sum::<u32>() < count {
        return None;
    }
    let mut of_length = vec![0_u32; count as usize + 1];
    for run in runs {
        of_length[run.len().min(count) as usize] += 1;
    }
    let (mut left, mut groups) = (count, 0);
    for length in (1..=count).rev() {
        let needed = left.div_ceil(length).min(of_length[length as usize]);
        left = left.saturating_sub(needed * length);
        groups += needed as usize;
    }
    (left == 0).then_some(groups)
}

/// One look through the runs of a section.
struct Section<'a> {
    plan: &'a Plan,
    runs: &'a [Run],
    middles: Vec<(i32, i32)>,
    longest: u32,
    count: u32,
}

impl<'a> Section<'a> {
    fn new(plan: &'a Plan, runs: &'a [Run], count: u32) -> Self {
        Self {
            plan,
            runs,
            middles: runs.iter().map(|run| run.middle(plan)).collect(),
            longest: runs.iter().map(Run::len).max().unwrap_or(0),
            count,
        }
    }

    fn look_through(&self, best: &mut Option<(Score, Vec<Range<u32>>)>) {
        let anchors = (LOOKS / self.runs.len()).clamp(ANCHORS_MIN, ANCHORS);
        let mut is_any = false;
        for anchor in 0..anchors.min(self.runs.len()) {
            let bound = best.as_ref().map(|(score, _)| (score.groups, score.spread));
            match self.near(anchor, bound) {
                Near::Found { parts, spread } => {
                    is_any = true;
                    self.offer(&parts, spread, best);
                }
                Near::Worse => is_any = true,
                Near::Nothing => {}
            }
        }
        // Also where taking the nearest leads nowhere.
        if !is_any && let Some(parts) = self.any() {
            let first = self.middles[parts[0].0];
            let spread = parts
                .iter()
                .map(|(run, _)| apart(first, self.middles[*run]));
            self.offer(&parts, spread.max().unwrap_or(0), best);
        }
    }

    /// Takes from one run after another, the nearest to the anchor first, as much as can be without
    /// leaving one person over. Gives up where it can't be as good as the bound any more.
    fn near(&self, anchor: usize, bound: Option<(usize, u64)>) -> Near {
        let others = self
            .count
            .saturating_sub(self.runs[anchor].len())
            .div_ceil(self.longest);
        if bound.is_some_and(|(groups, _)| 1 + others as usize > groups) {
            return Near::Worse;
        }
        let from = self.middles[anchor];
        let all = self.middles.iter().enumerate();
        let mut near: BinaryHeap<_> = all
            .map(|(no, at)| Reverse((apart(from, *at), no)))
            .collect();
        let mut parts = Vec::new();
        let mut left = self.count;
        while let Some(Reverse((spread, no))) = near.pop() {
            let mut take = left.min(self.runs[no].len());
            if left - take == 1 {
                take -= 1;
            }
            if take < 2 {
                continue;
            }
            parts.push((no, take));
            left -= take;
            let groups = parts.len() + left.div_ceil(self.longest) as usize;
            if bound.is_some_and(|bound| (groups, spread) > bound) {
                return Near::Worse;
            }
            if left == 0 {
                return Near::Found { parts, spread };
            }
        }
        Near::Nothing
    }

    /// Some groups, if there are any at all: which sums of groups can be reached, run by run.
    fn any(&self) -> Option<Vec<(usize, u32)>> {
        let count = self.count as usize;
        // By sum, the run whose group came last and its size.
        let mut reached: Vec<Option<(usize, usize)>> = vec![None; count + 1];
        for (no, run) in self.runs.iter().enumerate() {
            let length = run.len() as usize;
            for sum in (2..=count).rev() {
                if reached[sum].is_some() {
                    continue;
                }
                let size = (2..=length.min(sum))
                    .rev()
                    .find(|size| sum == *size || reached[sum - size].is_some());
                reached[sum] = size.map(|size| (no, size));
            }
        }
        let mut parts = Vec::new();
        let mut left = count;
        while left > 0 {
            let (no, size) = reached[left]?;
            parts.push((no, u32::try_from(size).ok()?));
            left -= size;
        }
        Some(parts)
    }

    /// Keeps parts of runs if they are better than what is known.
    fn offer(
        &self,
        parts: &[(usize, u32)],
        spread: u64,
        best: &mut Option<(Score, Vec<Range<u32>>)>,
    ) {
        let groups: Vec<Range<u32>> = parts
            .iter()
            .map(|(no, size)| window(self.plan, &self.runs[*no].seats, *size))
            .collect();
        let qualities = groups.iter().map(|seats| self.plan.quality(seats.clone()));
        let together = qualities.reduce(|a, b| Quality {
            worst_grade: a.worst_grade.max(b.worst_grade),
            distance: a.distance + b.distance,
            first: a.first.min(b.first),
        });
        let score = Score {
            groups: groups.len(),
            spread,
            quality: together.expect("a party has groups"),
        };
        if best.as_ref().is_none_or(|(known, _)| score < *known) {
            *best = Some((score, groups));
        }
    }
}

/// Groups near to one run.
enum Near {
    /// Which runs, how many seats of each, and how far the farthest is.
    Found {
        parts: Vec<(usize, u32)>,
        spread: u64,
    },
    /// There may be some, but better ones are known.
    Worse,
    Nothing,
}

/// The best so many seats of a run; better are those that leave no single seat of it alone.
fn window(plan: &Plan, run: &Range<u32>, size: u32) -> Range<u32> {
    let windows = (run.start..=run.end - size).map(|start| start..start + size);
    let alone = |seats: &Range<u32>| {
        let left = [seats.start - run.start, run.end - seats.end];
        left.iter().filter(|left| **left == 1).count()
    };
    let best = windows.min_by_key(|seats| (alone(seats), plan.quality(seats.clone())));
    best.expect("a run has room for a part of it")
}

/// How far two places are from each other, squared.
fn apart(a: (i32, i32), b: (i32, i32)) -> u64 {
    let square = |d: i64| d.unsigned_abs().saturating_mul(d.unsigned_abs());
    let (dx, dy) = (
        i64::from(a.0) - i64::from(b.0),
        i64::from(a.1) - i64::from(b.1),
    );
    square(dx).saturating_add(square(dy))
}

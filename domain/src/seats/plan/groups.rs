//! A party that can't sit in one row: groups in one section in which nobody is alone.

use super::{Plan, Quality};
use std::ops::Range;

/// So many of the best groups of a section are tried as the one that the others sit near to.
const ANCHORS: usize = 32;

/// How good a party's groups are; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    groups: usize,
    /// The farthest from the first, in centimetres, squared.
    spread: u64,
    quality: Quality,
}

/// The best groups of at least two, `count` seats in all, out of free runs with their sections.
pub(super) fn best(
    plan: &Plan,
    runs: &mut [(u32, Range<u32>)],
    count: u32,
) -> Option<Vec<Range<u32>>> {
    // Stable, so that the runs of a section stay in the order of their merit.
    runs.sort_by_key(|(section, _)| *section);
    let mut best: Option<(Score, Vec<Range<u32>>)> = None;
    for section in runs.chunk_by(|(a, _), (b, _)| a == b) {
        let seats: u32 = section.iter().map(|(_, run)| run.end - run.start).sum();
        if seats < count {
            continue;
        }
        let runs: Vec<&Range<u32>> = section.iter().map(|(_, run)| run).collect();
        let near = runs.iter().take(ANCHORS).filter_map(|anchor| {
            let mut near = runs.clone();
            near.sort_by_key(|run| (apart(plan, anchor, run), run.start));
            greedy(plan, &near, count)
        });
        let found = near.min_by_key(|groups| score(plan, groups));
        // Also where taking the nearest leads nowhere.
        let found = found.or_else(|| any(plan, &runs, count));
        if let Some(groups) = found {
            let score = score(plan, &groups);
            if best.as_ref().is_none_or(|(known, _)| score < *known) {
                best = Some((score, groups));
            }
        }
    }
    best.map(|(_, groups)| groups)
}

/// Takes from one run after another as much as can be without leaving one person over.
fn greedy(plan: &Plan, runs: &[&Range<u32>], count: u32) -> Option<Vec<Range<u32>>> {
    let mut groups = Vec::new();
    let mut left = count;
    for run in runs {
        let mut take = left.min(run.end - run.start);
        if left - take == 1 {
            take -= 1;
        }
        if take >= 2 {
            groups.push(window(plan, run, take));
            left -= take;
        }
        if left == 0 {
            return Some(groups);
        }
    }
    None
}

/// Some groups, if there are any at all: which sums of groups can be reached, run by run.
fn any(plan: &Plan, runs: &[&Range<u32>], count: u32) -> Option<Vec<Range<u32>>> {
    let count = count as usize;
    // By sum, the run whose group came last and its size.
    let mut reached: Vec<Option<(usize, usize)>> = vec![None; count + 1];
    for (no, run) in runs.iter().enumerate() {
        let length = (run.end - run.start) as usize;
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
    let mut groups = Vec::new();
    let mut left = count;
    while left > 0 {
        let (no, size) = reached[left]?;
        groups.push(window(plan, runs[no], u32::try_from(size).ok()?));
        left -= size;
    }
    Some(groups)
}

/// The best so many seats of a run.
fn window(plan: &Plan, run: &Range<u32>, size: u32) -> Range<u32> {
    let windows = (run.start..=run.end - size).map(|start| start..start + size);
    let best = windows.min_by_key(|seats| plan.quality(seats.clone()));
    best.expect("a run has room for a part of it")
}

fn score(plan: &Plan, groups: &[Range<u32>]) -> Score {
    let qualities = groups.iter().map(|seats| plan.quality(seats.clone()));
    let together = qualities.reduce(|a, b| Quality {
        worst_grade: a.worst_grade.max(b.worst_grade),
        distance: a.distance + b.distance,
        first: a.first.min(b.first),
    });
    let apart = groups.iter().map(|group| apart(plan, &groups[0], group));
    Score {
        groups: groups.len(),
        spread: apart.max().unwrap_or(0),
        quality: together.expect("a party has groups"),
    }
}

/// How far the middles of two runs are from each other, squared.
fn apart(plan: &Plan, a: &Range<u32>, b: &Range<u32>) -> u64 {
    let middle = |run: &Range<u32>| plan.at[usize::midpoint(run.start as usize, run.end as usize)];
    let ((ax, ay), (bx, by)) = (middle(a), middle(b));
    let square = |d: i64| d.unsigned_abs().saturating_mul(d.unsigned_abs());
    let (dx, dy) = (i64::from(ax) - i64::from(bx), i64::from(ay) - i64::from(by));
    square(dx).saturating_add(square(dy))
}

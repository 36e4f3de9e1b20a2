//! Where the artifacts of a deployment are cut into ranges, one for each shard.
//!
//! What must stay true: any cuts are right, and good ones make shards that take equally long. So nothing is listed for them:
//! what the parent snapshot holds tells where much is, or else what the rows say.

use std::sync::Arc;

use crate::backup::Compare;
use crate::backup::job::Job;
use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::source::bucket::BucketSource;
use crate::source::deployment::{ArtifactComponent, ArtifactPlace};
use crate::source::filter::Filter;
use crate::source::inventory::Claim;
use crate::trees::outline::{Stretch, outline};
use crate::units::MIB;

/// Bytes that take about as long to read as another file takes to be listed, compared and opened.
const BYTES_PER_FILE: u64 = MIB;

/// Divides an artifact component among shards. Returns the last path of each range but the last one; there may be fewer
/// ranges than shards.
pub fn cuts(
    job: &Job<'_>,
    component: &ArtifactComponent,
    claims: &[&Claim],
    compare: &Compare<'_>,
    shards: u32,
) -> Result<Vec<Vec<u8>>> {
    let mut points = known(job, component, compare);
    if points.is_empty() {
        points = claimed(claims);
    }
    if points.len() < shards as usize {
        job.hears.monitor.note(&format!(
            "{}: neither the snapshot before nor the databases tell where its files are, so that not every shard has a part of \
             it",
            component.name
        ));
    }
    let wanted = quantiles(&points, shards);
    let ArtifactPlace::Bucket(location, options) = &component.place else { return Ok(wanted) };
    let bucket = BucketSource::connect(location, options, Filter::default(), 0)?;
    let mut cuts = Vec::new();
    for cut in wanted {
        job.hears.check()?;
        match bucket.can_be_cut_at(&cut)? {
            true => cuts.push(cut),
            false => job.hears.monitor.note(&format!(
                "{}: it is not cut at {:?}, where servers list in different orders: one shard has more to do",
                component.name,
                String::from_utf8_lossy(&cut)
            )),
        }
    }
    Ok(cuts)
}

/// Returns where the files of the parent snapshot are.
fn known(job: &Job<'_>, component: &ArtifactComponent, compare: &Compare<'_>) -> Vec<Stretch> {
    let components = compare.parent.iter().flat_map(|parent| &parent.record.components);
    let Some(known) = components.into_iter().find(|known| known.name == component.name) else { return Vec::new() };
    let reader = ChunkReader::new(Arc::clone(job.repository));
    outline(&reader, &known.name, &known.root).unwrap_or_else(|error| {
        job.hears.monitor.note(&format!("The parts are cut without the snapshot before: {error}"));
        Vec::new()
    })
}

/// Returns where rows say that files are.
fn claimed(claims: &[&Claim]) -> Vec<Stretch> {
    let mut paths: Vec<_> = claims.iter().filter_map(|claim| claim.place.as_ref()).map(|(_, path)| path).collect();
    paths.sort_unstable();
    paths.dedup();
    let stretch = |path: &String| Stretch { first_path: path.clone().into_bytes(), entries: 1, bytes: 0 };
    paths.into_iter().filter(|path| !path.is_empty()).map(stretch).collect()
}

/// Returns paths between which about the same lies.
fn quantiles(points: &[Stretch], shards: u32) -> Vec<Vec<u8>> {
    let weight = |point: &Stretch| u128::from(point.entries) + u128::from(point.bytes / BYTES_PER_FILE);
    let total: u128 = points.iter().map(weight).sum();
    let (mut cuts, mut before) = (Vec::new(), 0);
    for point in points {
        let next = cuts.len() as u128 + 1;
        if next < u128::from(shards) && before > 0 && before * u128::from(shards) >= total * next {
            cuts.push(point.first_path.clone());
        }
        before += weight(point);
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(path: &str, entries: u64, bytes: u64) -> Stretch {
        Stretch { first_path: path.into(), entries, bytes }
    }

    #[test]
    fn shards_get_about_the_same_and_no_two_cuts_are_one() {
        let even: Vec<_> = (0..100).map(|number| stretch(&format!("{number:02}"), 10, 0)).collect();
        assert_eq!(quantiles(&even, 4), [b"25", b"50", b"75"]);
        assert!(quantiles(&even, 1).is_empty() && quantiles(&[], 8).is_empty() && quantiles(&even[..1], 8).is_empty());
        // One model weighs as much as all the rest.
        let heavy = [stretch("a", 1, 0), stretch("b", 1, 1 << 30), stretch("c", 1, 0), stretch("d", 1, 0)];
        assert_eq!(quantiles(&heavy, 2), [b"c"]);
        let all = quantiles(&heavy, 8);
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]) && all.len() < 4, "{all:?}");
    }
}

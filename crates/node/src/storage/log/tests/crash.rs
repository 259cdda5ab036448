//! Torn tails and damage: what was synced is there, or the log says that it is damaged. Nothing is invented.

use super::super::directory::MarkFile;
use super::super::format::{FORMAT_VERSION, SegmentHeader};
use super::*;
use std::path::PathBuf;

/// A log in one segment: `synced` batches under the mark, then `loose` ones written and never synced.
struct Torn {
    directory: tempfile::TempDir,
    /// The model after each batch, from none on.
    models: Vec<Model>,
    /// Where each batch's record ends; the first number is where the records of the opening end.
    ends: Vec<usize>,
    synced: usize,
}

fn torn(synced: usize, loose: usize) -> Torn {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let (mut models, mut ends) = (vec![Model::default()], vec![written(&log)]);
    for batch in 0..synced + loose {
        let number = batch as u64;
        let mut writes = vec![accept(1, number, 1 + number, 2, 20), hard(1, number, number)];
        if batch == 0 {
            writes.insert(0, create(1, 1, 0));
        }
        let mut model = models[batch].clone();
        model.apply(&writes);
        log.append(&writes).unwrap();
        if batch < synced {
            log.sync().unwrap();
            log.settle().unwrap();
        } else {
            log.tidy().unwrap();
        }
        models.push(model);
        ends.push(written(&log));
    }
    assert_eq!(log.active.as_ref().unwrap().header.id, 1, "all in one segment");
    let copied = scratch();
    copy(directory.path(), copied.path());
    Torn { directory: copied, models, ends, synced }
}

fn written(log: &SegmentLog) -> usize {
    log.active.as_ref().unwrap().written
}

fn segment_path(directory: &Path, id: u32) -> PathBuf {
    let of = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "segment")
            && SegmentHeader::decode(&std::fs::read(path).unwrap()).unwrap().is_some_and(|header| header.id == id)
    };
    std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).find(of).expect("the segment is there")
}

/// Opens a copy of `from` after `hurt` had its way with the bytes of the segment.
fn reopen(from: &Path, hurt: impl FnOnce(&mut Vec<u8>)) -> Result<Recovered, LogError> {
    let copied = scratch();
    copy(from, copied.path());
    let path = segment_path(copied.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    hurt(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let (mut log, recovered) = SegmentLog::recover(copied.path(), small())?;
    // What was found stays found, and the log goes on.
    let (mut after, more) = (Model::default(), [create(9, 1, 0), accept(9, 1, 1, 1, 30)]);
    after.apply(&more);
    log.append(&more).unwrap();
    log.sync().unwrap();
    drop(log);
    let (_log, mut again) = SegmentLog::recover(copied.path(), small())?;
    let new = again.replicas.pop().expect("the new replica");
    assert_eq!(new, after.recovered().replicas[0]);
    assert_eq!(again, recovered);
    Ok(recovered)
}

#[test]
fn a_tail_cut_anywhere_keeps_what_is_whole_before_it() {
    let torn = torn(3, 3);
    let last = *torn.ends.last().unwrap();
    for cut in torn.ends[torn.synced]..=last {
        let whole = torn.ends.iter().filter(|end| **end <= cut).count() - 1;
        // The padding after a record does not count.
        let expected = |batches: usize| torn.models[batches].recovered();
        let fill: fn(&mut Vec<u8>, usize) = |bytes, cut| bytes[cut..].fill(0xEE);
        for hurt in [fill, Vec::truncate] {
            let recovered = reopen(torn.directory.path(), |bytes| hurt(bytes, cut)).expect("a torn tail is no damage");
            let nearly = (whole + 1).min(torn.models.len() - 1);
            let padding_only = recovered == expected(nearly) && torn.ends[nearly] - cut < 8;
            assert!(recovered == expected(whole) || padding_only, "cut at {cut} with {whole} whole batches");
        }
    }
}

#[test]
fn any_byte_changed_in_the_tail_keeps_what_is_before_it() {
    let torn = torn(2, 2);
    for at in torn.ends[torn.synced]..*torn.ends.last().unwrap() {
        let recovered = reopen(torn.directory.path(), |bytes| bytes[at] ^= 0x41).expect("a torn tail is no damage");
        let whole = torn.ends.iter().filter(|end| **end <= at).count() - 1;
        let all = torn.models.last().unwrap().recovered();
        let harmless = torn.ends.iter().any(|end| (1..8).any(|padding| end - padding == at));
        assert!(recovered == torn.models[whole].recovered() || (harmless && recovered == all), "byte {at}");
    }
}

#[test]
fn any_byte_changed_below_the_mark_is_damage() {
    let torn = torn(3, 1);
    let mut damaged = 0;
    for at in 0..torn.ends[torn.synced] {
        match reopen(torn.directory.path(), |bytes| bytes[at] ^= 0x41) {
            Err(LogError::Damaged(_)) => damaged += 1,
            // Unused bytes of the header are covered; only the padding between records is not.
            Ok(recovered) => assert_eq!(recovered, torn.models.last().unwrap().recovered(), "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(damaged > torn.ends[torn.synced] - 64, "{damaged} of {}", torn.ends[torn.synced]);
}

#[test]
fn anything_cut_below_the_mark_is_damage() {
    let torn = torn(3, 0);
    // The last record's end is padded; a cut in the padding cuts nothing.
    for cut in 0..torn.ends[torn.synced] - 8 {
        let result = reopen(torn.directory.path(), |bytes| bytes.truncate(cut));
        assert!(matches!(result, Err(LogError::Damaged(_))), "cut at {cut}: {result:?}");
    }
}

#[test]
fn a_hole_in_one_unsynced_write_is_a_torn_tail_and_the_rest_never_returns() {
    let torn = torn(2, 3);
    let (from, to) = (torn.ends[3], torn.ends[4]);
    let recovered = reopen(torn.directory.path(), |bytes| bytes[from..to].fill(0)).unwrap();
    assert_eq!(recovered, torn.models[3].recovered());
}

#[test]
fn a_hole_below_what_a_later_record_saw_synced_is_damage_without_any_mark_in_the_file() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    log.append(&[create(1, 1, 0)]).unwrap();
    log.sync().unwrap();
    let from = written(&log);
    log.append(&[accept(1, 1, 1, 1, 40)]).unwrap();
    log.sync().unwrap();
    let to = written(&log);
    log.append(&[accept(1, 1, 2, 1, 40)]).unwrap();
    log.sync().unwrap();
    assert!(log.mark.mark.durable < log.durable, "the file's mark is older");
    let result = reopen(directory.path(), |bytes| bytes[from..to].fill(0));
    assert!(matches!(result, Err(LogError::Damaged(_))), "{result:?}");
}

#[test]
fn a_lost_or_damaged_mark_is_damage() {
    let torn = torn(2, 0);
    let mark = torn.directory.path().join("mark");
    let bytes = std::fs::read(&mark).unwrap();
    std::fs::remove_file(&mark).unwrap();
    assert!(matches!(SegmentLog::recover(torn.directory.path(), small()), Err(LogError::Damaged(_))));
    // One bad copy is borne; two are not.
    let mut hurt = bytes.clone();
    hurt[20] ^= 1;
    std::fs::write(&mark, &hurt).unwrap();
    let directory = super::super::directory::Directory::open(torn.directory.path(), &small()).unwrap();
    assert!(MarkFile::open(&directory).unwrap().is_some());
    drop(directory);
    hurt[4096 + 20] ^= 1;
    std::fs::write(&mark, &hurt).unwrap();
    assert!(matches!(SegmentLog::recover(torn.directory.path(), small()), Err(LogError::Damaged(_))));
}

#[test]
fn a_missing_or_damaged_older_segment_is_damage() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 0)]);
    for slot in 1..100 {
        both(&mut log, &mut model, &[accept(1, 1, slot, 1, 200)]);
    }
    let ids: Vec<u32> = log.state.lock().segments.keys().copied().collect();
    assert!(ids.len() > 3, "{ids:?}");
    drop(log);
    for id in &ids {
        let copied = scratch();
        copy(directory.path(), copied.path());
        std::fs::remove_file(segment_path(copied.path(), *id)).unwrap();
        assert!(matches!(SegmentLog::recover(copied.path(), small()), Err(LogError::Damaged(_))), "missing {id}");
        for at in [3, 70, 400, 900] {
            let copied = scratch();
            copy(directory.path(), copied.path());
            let path = segment_path(copied.path(), *id);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
            let result = SegmentLog::recover(copied.path(), small());
            assert!(matches!(result, Err(LogError::Damaged(_))), "segment {id} byte {at}: {result:?}");
        }
    }
    assert_eq!(open(directory.path()).1, model.recovered());
}

#[test]
fn a_segment_begun_and_never_synced_is_forgotten() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 0)]);
    let mut slot = 1;
    while log.active.as_ref().unwrap().header.id == 1 {
        let writes = [accept(1, 1, slot, 1, 100)];
        log.append(&writes).unwrap();
        if log.active.as_ref().unwrap().header.id == 1 {
            model.apply(&writes);
            log.sync().unwrap();
        }
        slot += 1;
    }
    log.tidy().unwrap();
    let bytes = std::fs::read(segment_path(directory.path(), 2)).unwrap();
    let written = written(&log);
    for cut in 0..written {
        let copied = scratch();
        copy(directory.path(), copied.path());
        let mut torn = bytes.clone();
        torn[cut..].fill(0xEE);
        std::fs::write(segment_path(copied.path(), 2), torn).unwrap();
        let (mut log, recovered) = open(copied.path());
        let mut again = model.clone();
        if recovered != model.recovered() {
            again.apply(&[accept(1, 1, slot - 1, 1, 100)]);
            assert!(written - cut < 8, "cut {cut} of {written} in the padding");
        }
        assert_eq!(recovered, again.recovered(), "cut {cut} of {written}");
        // Life goes on over the remains, through several segments.
        for slot in 200..230 {
            both(&mut log, &mut again, &[accept(1, 2, slot, 1, 100)]);
        }
        drop(log);
        assert_eq!(open(copied.path()).1, again.recovered());
    }
}

#[test]
fn a_later_format_is_refused_and_left_alone() {
    let torn = torn(1, 0);
    let result = reopen(torn.directory.path(), |bytes| {
        bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        bytes[12..16].fill(0);
        let crc = crc32fast::hash(&bytes[..64]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    assert!(
        matches!(result, Err(LogError::Version { found, known }) if found == FORMAT_VERSION + 1 && known == FORMAT_VERSION),
        "{result:?}"
    );
}

use super::*;

fn small() -> RocksSettings {
    RocksSettings { cache_bytes: 1 << 20, memtable_bytes: 256 << 10, ..RocksSettings::default() }
}

fn open(path: &Path) -> RocksStore {
    RocksStore::open(path, &small()).expect("the store opens")
}

fn put(store: &RocksStore, pairs: &[(&str, &str)]) {
    let mut batch = RocksBatch::default();
    for (key, value) in pairs {
        batch.put(key.as_bytes(), value.as_bytes());
    }
    store.write(batch).unwrap();
}

fn get(from: &impl Read, key: &str) -> Option<String> {
    from.get(key.as_bytes()).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn keys(from: &impl Read, start: &str, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    from.scan(start.as_bytes(), end.as_bytes(), &mut |key, _| {
        found.push(String::from_utf8(key.to_vec()).unwrap());
        Visit::Continue
    })
    .unwrap();
    found
}

/// Values that do not compress, so that files have the size one expects.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    use rand::{RngCore, SeedableRng, rngs::SmallRng};
    let mut bytes = vec![0; length];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn fill(store: &RocksStore, prefix: &str, count: u64) {
    for number in 0..count {
        let mut batch = RocksBatch::default();
        batch.put(format!("{prefix}{number:06}").as_bytes(), &noise(number, 1000));
        store.write(batch).unwrap();
    }
}

fn files(path: &Path, suffix: &str) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
    all.filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
}

#[test]
fn batches_read_back_and_scans_keep_their_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
    assert_eq!(get(&store, "b").as_deref(), Some("2"));
    assert_eq!(get(&store, "x"), None);
    assert_eq!(keys(&store, "b", "d"), ["b", "c"]);
    assert_eq!(keys(&store, "d", "b"), Vec::<String>::new());
    let mut seen = 0;
    store
        .scan(b"a", b"z", &mut |_, _| {
            seen += 1;
            if seen == 2 { Visit::Stop } else { Visit::Continue }
        })
        .unwrap();
    assert_eq!(seen, 2);

    let mut batch = RocksBatch::default();
    batch.delete_range(b"a", b"c");
    batch.delete_range(b"z", b"a");
    batch.put(b"b", b"again");
    batch.delete(b"d");
    store.write(batch).unwrap();
    assert_eq!(keys(&store, "a", "z"), ["b", "c"]);
}

#[test]
fn a_view_stays_as_it_was_and_outlives_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &[("a", "1"), ("b", "2")]);
    let view = store.view();
    put(&store, &[("a", "9"), ("c", "3")]);
    let mut batch = RocksBatch::default();
    batch.delete_range(b"a", b"z");
    store.write(batch).unwrap();
    store.flush().unwrap();
    assert_eq!(get(&store, "a"), None);
    drop(store);
    let view = std::thread::spawn(move || {
        assert_eq!(get(&view, "a").as_deref(), Some("1"));
        assert_eq!(keys(&view, "a", "z"), ["a", "b"]);
        view
    })
    .join()
    .unwrap();
    // The view is the last to hold the directory.
    assert!(RocksStore::open(directory.path(), &small()).is_err());
    drop(view);
    open(directory.path());
}

#[test]
fn a_crash_keeps_what_was_flushed_and_otherwise_a_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for number in 0..10 {
        put(&store, &[(&format!("data{number}"), "x"), ("applied", &number.to_string())]);
    }
    store.flush().unwrap();
    fill(&store, "bulk", 2000);
    for number in 10..20 {
        put(&store, &[(&format!("data{number}"), "x"), ("applied", &number.to_string())]);
    }
    // As a crash leaves it: only what is in files. No compaction may take files away while they are copied.
    store.inner.db.wait_for_compact(&rocksdb::WaitForCompactOptions::default()).unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy_files(directory.path(), crashed.path());
    let store = open(crashed.path());
    let applied: u64 = get(&store, "applied").expect("flushed").parse().unwrap();
    assert!(applied >= 9);
    assert_eq!(keys(&store, "data", "datb").len() as u64, applied + 1, "data and applied mark agree");
}

/// Copies the files of a store that goes on changing: table files and the manifest that names them.
fn copy_files(from: &Path, to: &Path) {
    // CURRENT and the manifest first: the table files that they name are only ever added.
    let mut paths: Vec<_> = std::fs::read_dir(from).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort_by_key(|path| path.extension().is_some_and(|extension| extension == "sst"));
    for path in paths {
        let name = path.file_name().unwrap();
        if name != "LOCK" {
            match std::fs::copy(&path, to.join(name)) {
                // RocksDB clears away files that nothing names any more; one that is named is missed when the copy is opened.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

fn compacted(store: &RocksStore) {
    store.flush().unwrap();
    // Files are dropped from below the first level only.
    store.inner.db.compact_range(None::<&[u8]>, None::<&[u8]>);
}

/// A file that a compaction is reading is not dropped.
fn quiet(store: &RocksStore) {
    store.inner.db.wait_for_compact(&rocksdb::WaitForCompactOptions::default()).unwrap();
}

/// From now on no compaction begins by itself, which would keep the files it reads until it ends.
fn without_compactions(store: &RocksStore) {
    store.inner.db.set_options(&[("disable_auto_compactions", "true")]).unwrap();
    quiet(store);
}

fn drop_all(store: &RocksStore, start: &str, end: &str) {
    let mut batch = RocksBatch::default();
    batch.drop_range(start.as_bytes(), end.as_bytes());
    store.write(batch).unwrap();
}

#[test]
fn what_is_dropped_is_hidden_at_once_and_its_space_comes_back_in_slices_once_no_view_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, "t1/", 3000);
    fill(&store, "t2/", 100);
    compacted(&store);
    without_compactions(&store);
    let before = store.statistics().file_bytes;
    assert!(before > 3 << 20, "{before}");
    let view = store.view();
    drop_all(&store, "t1/", "t10");
    assert_eq!(keys(&store, "t1/", "t10"), Vec::<String>::new());
    store.give_back(1 << 20, &mut |_| panic!("a view still reads")).unwrap();
    assert_eq!(keys(&view, "t1/", "t10").len(), 3000);
    drop(view);

    let mut slices = Vec::new();
    store.give_back(1 << 20, &mut |bytes| slices.push(bytes)).unwrap();
    assert!(slices.len() > 2 && slices.iter().all(|bytes| *bytes <= 1 << 20), "{slices:?}");
    let statistics = store.statistics();
    assert_eq!((statistics.waiting_bytes, statistics.given_back_bytes), (0, slices.iter().sum()));
    assert!(statistics.file_bytes < before / 3, "{} of {before}", statistics.file_bytes);
    assert_eq!(keys(&store, "t1/", "t10"), Vec::<String>::new());
    assert_eq!(keys(&store, "t2/", "t20").len(), 100);
    store.give_back(1 << 20, &mut |_| panic!("all is gone")).unwrap();
}

#[test]
fn a_crash_in_the_middle_leaves_the_rest_to_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, "t1/", 3000);
    put(&store, &[("t10", "kept"), ("t0", "kept")]);
    compacted(&store);
    let before = store.statistics().file_bytes;
    // A compaction would take files away while they are copied, that the manifest just copied names.
    without_compactions(&store);
    drop_all(&store, "t1/", "t10");
    // What a crash leaves after the first slice.
    let crashed = tempfile::tempdir().unwrap();
    let mut slices = 0;
    store
        .give_back(512 << 10, &mut |_| {
            slices += 1;
            if slices == 1 {
                copy_files(directory.path(), crashed.path());
            }
        })
        .unwrap();
    assert!(slices > 3);
    drop(store);

    let store = open(crashed.path());
    assert_eq!(keys(&store, "t", "u"), ["t0", "t10"], "the removal was durable before anything went");
    let left = store.statistics().file_bytes;
    assert!(left > before / 2, "{left} of {before}");
    store.give_back_later(vec![(b"t1/".to_vec(), b"t10".to_vec())]);
    quiet(&store);
    store.give_back(1 << 20, &mut |_| {}).unwrap();
    assert!(store.statistics().file_bytes < before / 3);
    assert_eq!(keys(&store, "t", "u"), ["t0", "t10"]);
}

#[test]
fn a_thread_gives_back_no_faster_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, "t1/", 2000);
    compacted(&store);
    drop_all(&store, "t1/", "t10");
    quiet(&store);
    let begun = Instant::now();
    drops::start(store.clone(), 1 << 20).unwrap();
    let wanted = 1 << 20;
    while store.statistics().given_back_bytes <= wanted {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[test]
fn statistics_count() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, "k", 1000);
    store.flush().unwrap();
    for _ in 0..2 {
        assert!(get_raw(&store, "k000500").is_some());
    }
    let view = store.view();
    let statistics = store.statistics();
    assert!(statistics.files_per_level.iter().sum::<u64>() > 0, "{statistics:?}");
    assert!(statistics.file_bytes > 500_000 && statistics.cache_hits > 0 && statistics.cache_misses > 0);
    assert!(statistics.flushed_bytes > 500_000 && statistics.views == 1 && !statistics.is_write_stopped);
    drop(view);
    assert_eq!(store.statistics().views, 0);
}

fn get_raw(store: &RocksStore, key: &str) -> Option<Bytes> {
    store.get(key.as_bytes()).unwrap()
}

#[test]
fn a_damaged_store_is_said_to_be_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, "k", 1000);
    store.flush().unwrap();
    drop(store);

    let hurt = |hurt: &dyn Fn(&Path)| {
        let copied = tempfile::tempdir().unwrap();
        copy_files(directory.path(), copied.path());
        hurt(copied.path());
        RocksStore::open(copied.path(), &small()).map(drop)
    };
    assert_eq!(hurt(&|_| {}), Ok(()));
    let damaged = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::Damaged(_))), "{result:?}");
    };
    damaged(hurt(&|path| {
        let table = files(path, ".sst").remove(0);
        let length = std::fs::metadata(&table).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(table).unwrap().set_len(length / 2).unwrap();
    }));
    damaged(hurt(&|path| std::fs::remove_file(files(path, ".sst").remove(0)).unwrap()));
    damaged(hurt(&|path| {
        for file in std::fs::read_dir(path).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("MANIFEST-") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }));
    damaged(hurt(&|path| std::fs::remove_file(path.join("CURRENT")).unwrap()));
    damaged(hurt(&|path| std::fs::write(path.join("CURRENT"), "MANIFEST-99").unwrap()));
}

#[test]
fn the_directory_is_one_process_s_and_must_be_one() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path());
    match RocksStore::open(directory.path(), &small()).map(drop) {
        Err(StoreError::Failed(text)) => assert!(text.contains("in use"), "{text}"),
        other => panic!("{other:?}"),
    }
    let file = directory.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    match RocksStore::open(&file, &small()).map(drop) {
        Err(StoreError::Failed(text)) => assert!(text.contains("file"), "{text}"),
        other => panic!("{other:?}"),
    }
}

fn pairs(numbers: std::ops::Range<u64>) -> Vec<(Vec<u8>, Bytes)> {
    numbers.map(|number| (format!("t{number:06}").into_bytes(), noise(number, 1000).into())).collect()
}

#[test]
fn loaded_tables_are_read_outlive_a_crash_and_are_not_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &[("s", "1"), ("u", "1")]);
    let view = store.view();
    for first in (0..2000).step_by(500) {
        store.load(&pairs(first..first + 500)).unwrap();
    }
    assert_eq!(keys(&store, "t", "u").len(), 2000);
    assert_eq!(store.get(b"t001234").unwrap().unwrap(), noise(1234, 1000));
    assert_eq!(keys(&view, "t", "u"), Vec::<String>::new());
    let statistics = store.statistics();
    assert_eq!((statistics.flushed_bytes, statistics.compaction_written_bytes), (0, 0));
    assert_eq!(statistics.files_per_level, [0, 0, 0, 0, 0, 0, 4]);
    drop(view);

    // What a crash would leave: the files as they are. All are on the last level, so none of them is about to go.
    let copy = tempfile::tempdir().unwrap();
    for file in files(directory.path(), "") {
        if file.is_file() {
            std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
    }
    // The same again, as after a crash, changes nothing.
    store.load(&pairs(250..750)).unwrap();
    assert_eq!(keys(&store, "t", "u").len(), 2000);
    drop(store);

    let store = open(copy.path());
    assert_eq!(keys(&store, "t", "u").len(), 2000);
    assert_eq!(get(&store, "s"), None, "a batch that was never flushed");
    let mut batch = RocksBatch::default();
    batch.drop_range(b"t", b"u");
    store.write(batch).unwrap();
    assert_eq!(keys(&store, "t", "u"), Vec::<String>::new());
    store.give_back(1 << 20, &mut |_| {}).unwrap();
    assert!(store.statistics().file_bytes < 100 << 10);
}

#[test]
fn a_second_name_that_a_crash_left_of_a_loaded_table_does_not_harm_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.load(&pairs(0..500)).unwrap();
    let table = files(directory.path(), ".sst").pop().unwrap();
    std::fs::hard_link(table, directory.path().join(LOAD_FOLDER).join("table")).unwrap();
    store.load(&pairs(500..1000)).unwrap();
    drop(store);
    let store = open(directory.path());
    assert_eq!(keys(&store, "t", "u").len(), 1000);
    assert_eq!(store.get(b"t000123").unwrap().unwrap(), noise(123, 1000));
}

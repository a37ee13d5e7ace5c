//! Random `kill -9` under load.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::mount::Mount;
use super::harness::site::Site;
use super::harness::versions::Versions;
use super::harness::{Subject, can_mount, env_number, raw, say, seed, skip};

/// Kills, unless `COLDFS_KILL_ROUNDS` says otherwise.
const ROUNDS: u64 = 8;
/// Files by number of blocks: recalled in open(), whole, and in many chunks.
const BLOCKS: [u32; 5] = [2, 5, 60, 600, 5_000];
/// Longest life of a daemon under load.
const LIFE_MS: u64 = 900;

struct Load {
    files: Vec<(PathBuf, Versions)>,
    over: AtomicBool,
}

#[test]
fn a_kill_at_any_instant_under_load_loses_nothing_that_was_synced() {
    if !can_mount() {
        return;
    }
    if Subject::from_env() == Subject::Bind {
        return skip("a bind mount has no daemon to kill");
    }
    let mut rng = StdRng::seed_from_u64(seed());
    let site = Site::new();
    let files: Vec<(PathBuf, Versions)> = BLOCKS
        .iter()
        .enumerate()
        .map(|(index, blocks)| {
            (PathBuf::from(format!("file-{index}")), Versions::new(index as u32, *blocks))
        })
        .collect();
    for (path, versions) in &files {
        versions.create(&site.data.join(path));
    }
    let mut load = Arc::new(Load { files, over: AtomicBool::new(false) });
    let rounds = env_number("COLDFS_KILL_ROUNDS", ROUNDS);
    let mut pointers = 0;
    for round in 0..rounds {
        let mount = site.mount();
        // All cold: else a short life would see nothing but writes.
        mount.all("migrate", &site.mnt);
        let threads = begin(&load, &site, &mount, rng.random());
        std::thread::sleep(Duration::from_millis(rng.random_range(20..LIFE_MS)));
        mount.kill();
        load.over.store(true, Ordering::SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());

        for (path, versions) in &load.files {
            let body = std::fs::read(site.data.join(path)).unwrap();
            match versions.check_raw(&body) {
                Ok(super::harness::pattern::Looks::Stub) => pointers += 1,
                Ok(super::harness::pattern::Looks::Bytes) => {}
                Err(what) => panic!("round {round}: P6, raw: {what}"),
            }
        }
        let mount = site.mount();
        let output = mount.coldfs(["fsck".as_ref(), site.mnt.as_os_str()]);
        assert!(output.status.success(), "round {round}: fsck is not clean: {output:?}");
        for (path, versions) in &load.files {
            let body = std::fs::read(site.mnt.join(path)).unwrap();
            versions.settle_on(&body).unwrap_or_else(|what| panic!("round {round}: P7: {what}"));
        }
        mount.detach();
        Arc::get_mut(&mut load).expect("all threads ended").over = AtomicBool::new(false);
    }
    say(&format!("{rounds} kills, {pointers} bodies were pointers"));
    assert!(pointers > 0, "no body was a pointer at any kill: no test");
}

/// Writers, readers and a migrator, which end when `over` is set or the mount is gone.
fn begin(
    load: &Arc<Load>,
    site: &Site,
    mount: &Mount,
    seed: u64,
) -> Vec<std::thread::JoinHandle<()>> {
    let mut threads = Vec::new();
    for thread in 0..2_usize {
        let load = Arc::clone(load);
        let mnt = site.mnt.clone();
        let mut rng = StdRng::seed_from_u64(seed ^ thread as u64);
        // Each writer has files of its own: one thread writes a block at a time.
        threads.push(std::thread::spawn(move || {
            while !load.over.load(Ordering::SeqCst) {
                let choice = rng.random_range(0..load.files.len());
                if choice % 2 == thread {
                    let (path, versions) = &load.files[choice];
                    drop(write(&mnt.join(path), versions, &mut rng));
                }
                // Now and then a file rests long enough to be released.
                std::thread::sleep(Duration::from_millis(rng.random_range(0..250)));
            }
        }));
    }
    let reader = (Arc::clone(load), site.mnt.clone());
    let mut rng = StdRng::seed_from_u64(seed ^ 2);
    threads.push(std::thread::spawn(move || {
        let (load, mnt) = reader;
        while !load.over.load(Ordering::SeqCst) {
            let (path, versions) = &load.files[rng.random_range(0..load.files.len())];
            let Ok(bytes) = std::fs::read(mnt.join(path)) else { continue };
            // Floors here are of synced versions, so all that is read is at least those.
            versions.check_all(&vec![1; versions.count() as usize], &bytes).unwrap();
            std::thread::sleep(Duration::from_millis(rng.random_range(0..60)));
        }
    }));
    let migrator = (Arc::clone(load), site.mnt.clone(), mount.socket());
    let tiers = Subject::from_env().is_coldfs();
    let mut rng = StdRng::seed_from_u64(seed ^ 3);
    threads.push(std::thread::spawn(move || {
        let (load, mnt, socket) = migrator;
        while tiers && !load.over.load(Ordering::SeqCst) {
            let verb =
                ["migrate", "migrate", "migrate", "recall", "archive"][rng.random_range(0..5)];
            super::harness::control::run_move(&socket, verb, &mnt, true);
        }
    }));
    threads
}

/// Some blocks, then perhaps a sync, which makes what was written the least there may be.
fn write(path: &std::path::Path, versions: &Versions, rng: &mut StdRng) -> std::io::Result<()> {
    let file = raw::open(path, libc::O_RDWR, 0)?;
    let mut written = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        let index = rng.random_range(0..versions.count());
        written.push((index, versions.write(&file, index)?));
    }
    match rng.random_range(0..3) {
        0 => file.sync_all()?,
        1 => file.sync_data()?,
        _ => return Ok(()),
    }
    written.into_iter().for_each(|(index, version)| versions.settled(index, version));
    Ok(())
}

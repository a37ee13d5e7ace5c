//! What makes a daemon meet a crash point.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use coldfs::failpoint::CrashPoint;

use super::harness::mount::{Mount, Start};
use super::harness::site::Site;
use super::harness::zoo::{BIG, Zoo};
use super::harness::{pattern, raw};

/// Work that leads a daemon to a point: first what comes before, undisturbed; then, with the
/// point armed, what meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meet {
    /// `archive -r` of a tree that was never touched.
    Archive,
    /// `migrate -r` of a tree that was never touched.
    Migrate,
    /// `release -r` of an archived tree.
    Release,
    /// `recall -r` of a released tree.
    Recall,
    /// Reading every file of a released tree.
    Read,
    /// Writing into a released file.
    Write,
    /// Truncating a released file to a length within it.
    Truncate,
    /// Cancelling a recall of a large file.
    Cancel,
    /// Opening an archived file for writing.
    OpenForWrite,
    /// Changing an archived file, syncing, closing.
    CloseChanged,
    /// Opening an archived file with O_TRUNC.
    OpenTruncated,
    /// Truncating an archived file to a length within it.
    TruncateArchived,
    /// Giving an archived file a time that no record can hold.
    TimeNoRecordHolds,
    /// `drain` of a released tree.
    Drain,
    /// Starting after a death in the middle of a release.
    RecoverRelease,
    /// Starting after a death in the middle of a recall.
    RecoverRecall,
    /// `release -r` of an archived tree in which files were edited while detached, with their times.
    ReleaseEdited,
    /// `release -r` after a death in the middle of a release whose work list was lost.
    ReleaseMarked,
    /// Starting after a death when a recalled file was whole.
    RecoverWhole,
    /// `fsck --repair` of files that were lost, whose segments are back.
    Found,
    /// `fsck --repair` of archived files whose segments are gone.
    Void,
    /// `fsck --repair` after a death in the middle of a release whose work list was lost.
    Unmark,
    /// `fsck --adopt` where stubs were copied while detached.
    Adopt,
    /// `fsck --repair` after a death in the middle of a recall whose work list was lost, where
    /// archived files were edited while detached.
    Repair,
    /// `fsck --keep remote` of stubs that were damaged while detached.
    KeepRemote,
    /// `fsck --keep local` of the same.
    KeepLocal,
}

/// The work that should meet a point; a point is swept once for each, and at least one must
/// reach it. A new point does not compile until it is given its work.
pub fn work(point: CrashPoint) -> &'static [Meet] {
    use CrashPoint::*;
    match point {
        ArchiveBeforeUpload | ArchiveAfterVerify | ArchiveAfterRecord => &[Meet::Archive],
        ReleaseAfterDisproof => &[Meet::ReleaseEdited],
        ReleaseAfterOldMark => &[Meet::ReleaseMarked],
        ReleaseAfterIntent | ReleaseAfterRecord | ReleaseAfterBarrier | ReleaseAfterStub
        | ReleaseAfterSync | ReleaseAfterCut | ReleaseAfterTimes | ReleaseAfterReleased
        | ReleaseBeforeClear => &[Meet::Migrate, Meet::Release],
        RecallAfterIntent | RecallAfterRecord | RecallAfterExtend | RecallAfterChunk
        | RecallAfterTail | RecallAfterHead | RecallAfterSync | RecallAfterTimes
        | RecallBeforeClear => &[Meet::Recall, Meet::Read, Meet::Write, Meet::Truncate],
        CutBackAfterStub | CutBackAfterCut => {
            &[Meet::RecoverRecall, Meet::Cancel, Meet::KeepRemote]
        }
        BatchAfterIntent | BatchAfterChunk | BatchAfterTail | BatchAfterSync => {
            &[Meet::Recall, Meet::Read]
        }
        SuspectBeforeReply => &[Meet::OpenForWrite],
        ForgetAfterRecord => &[Meet::CloseChanged],
        OpenAfterTruncate => &[Meet::OpenTruncated],
        TruncateAfterRecord => &[Meet::TruncateArchived, Meet::Truncate],
        ChangeAfterRecord => &[Meet::TimeNoRecordHolds],
        DrainAfterRecord => &[Meet::Drain],
        RecoverAfterFile | RecoverBeforeClear => &[Meet::RecoverRelease, Meet::RecoverRecall],
        RecoverAfterProof => &[Meet::RecoverWhole],
        FsckAfterRepair => &[Meet::Repair],
        FsckAfterFound => &[Meet::Found],
        FsckAfterVoid => &[Meet::Void],
        FsckAfterUnmark => &[Meet::Unmark],
        AdoptAfterFile => &[Meet::Adopt],
        KeepAfterAside | KeepAfterStub => &[Meet::KeepRemote],
        KeepAfterMark => &[Meet::KeepLocal],
    }
}

/// A file that only [`Meet::Cancel`] has: long enough to be met on the way.
const LONG: &str = "long";
const LONG_BYTES: usize = 24 << 20;
/// Where changes are made: whole pages, so that a power cut tears none.
const CHANGE_AT: u64 = 1 << 20;
const CHANGE_BYTES: usize = 4_096;
/// Where [`Meet::Truncate`] cuts.
const CUT_AT: u64 = (1 << 20) + 3;
const CANCEL_ROUNDS: u64 = 20;
/// Files that only [`Meet::Repair`] and [`Meet::ReleaseEdited`] have.
const EDITED: [&str; 3] = ["edited-0", "edited-1", "edited-2"];
const EDITED_BYTES: usize = 20_000;
/// Files that only [`Meet::KeepRemote`] and [`Meet::KeepLocal`] have: one is appended to, one is
/// cut, one has other bytes.
const DAMAGED: [&str; 3] = ["damaged-0", "damaged-1", "damaged-2"];
const DAMAGED_BYTES: usize = 30_000;
/// How long somebody may have one of them open.
const CHOICE_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);
/// The work list, below the data directory.
const WORK_LIST: &str = ".coldfs/intents";
/// Stubs that [`Meet::Adopt`] copies.
const COPIED: [&str; 3] = ["small/05", "small/06", BIG];

impl Meet {
    /// Undisturbed work before the point is armed; the tree is detached afterwards.
    pub fn prepare(self, site: &Site, zoo: &mut Zoo) {
        match self {
            Meet::Archive | Meet::Migrate => {}
            Meet::Release
            | Meet::OpenForWrite
            | Meet::CloseChanged
            | Meet::OpenTruncated
            | Meet::TruncateArchived
            | Meet::TimeNoRecordHolds => with_mount(site, "archive"),
            Meet::Recall | Meet::Read | Meet::Write | Meet::Truncate | Meet::Drain => {
                with_mount(site, "migrate");
            }
            Meet::Cancel => {
                let bytes = pattern::bytes(300, LONG_BYTES);
                std::fs::write(site.data.join(LONG), &bytes).unwrap();
                zoo.only(LONG, bytes);
                with_mount(site, "migrate");
            }
            Meet::RecoverRelease => {
                die_first(site, CrashPoint::ReleaseAfterCut, |mount| verb(mount, site, "migrate"));
            }
            Meet::RecoverRecall => {
                with_mount(site, "migrate");
                die_first(site, CrashPoint::RecallAfterChunk, |mount| verb(mount, site, "recall"));
            }
            Meet::RecoverWhole => {
                with_mount(site, "migrate");
                die_first(site, CrashPoint::RecallAfterSync, |mount| verb(mount, site, "recall"));
            }
            Meet::ReleaseEdited => {
                let original = pattern::bytes(302, EDITED_BYTES);
                EDITED
                    .iter()
                    .for_each(|name| std::fs::write(site.data.join(name), &original).unwrap());
                with_mount(site, "archive");
                for name in EDITED {
                    let file = raw::open(&site.data.join(name), libc::O_RDWR, 0).unwrap();
                    let modified = file.metadata().unwrap().modified().unwrap();
                    file.write_all_at(b"edited", 9_000).unwrap();
                    file.set_modified(modified).unwrap();
                    zoo.only(name, std::fs::read(site.data.join(name)).unwrap());
                }
            }
            Meet::Found => {
                with_mount(site, "migrate");
                let segments = take_segments(&site.store);
                let mount = site.mount();
                for path in zoo.versions.keys() {
                    drop(std::fs::read(site.mnt.join(path)));
                }
                assert_eq!(mount.state(&site.mnt.join(BIG)), "lost");
                mount.detach();
                for (path, bytes) in segments {
                    std::fs::write(path, bytes).unwrap();
                }
            }
            Meet::Void => {
                with_mount(site, "archive");
                take_segments(&site.store);
            }
            Meet::Unmark | Meet::ReleaseMarked => {
                with_mount(site, "archive");
                let point = CrashPoint::ReleaseAfterBarrier;
                die_first(site, point, |mount| verb(mount, site, "release"));
                std::fs::remove_file(site.data.join(WORK_LIST)).unwrap();
            }
            Meet::Adopt => {
                with_mount(site, "migrate");
                for name in COPIED {
                    let copy = format!("{}-copy", name.replace('/', "-"));
                    std::fs::copy(site.data.join(name), site.data.join(&copy)).unwrap();
                    zoo.only(&copy, zoo.latest(name));
                }
            }
            Meet::KeepRemote | Meet::KeepLocal => self.damage(site, zoo),
            Meet::Repair => {
                for name in EDITED {
                    std::fs::write(site.data.join(name), pattern::bytes(302, EDITED_BYTES))
                        .unwrap();
                }
                with_mount(site, "archive");
                for name in EDITED {
                    let bytes = pattern::bytes(302, EDITED_BYTES + 1);
                    std::fs::write(site.data.join(name), &bytes).unwrap();
                    zoo.only(name, bytes);
                }
                let mount = site.mount();
                mount.all("migrate", &site.mnt.join("small"));
                mount.all("migrate", &site.mnt.join(BIG));
                mount.detach();
                die_first(site, CrashPoint::RecallAfterChunk, |mount| verb(mount, site, "recall"));
                std::fs::remove_file(site.data.join(WORK_LIST)).unwrap();
            }
        }
    }

    /// Files whose stubs somebody damages, and what is chosen about them.
    fn damage(self, site: &Site, zoo: &mut Zoo) {
        let original = pattern::bytes(303, DAMAGED_BYTES);
        for name in DAMAGED {
            std::fs::write(site.data.join(name), &original).unwrap();
        }
        with_mount(site, "migrate");
        for (index, name) in DAMAGED.iter().enumerate() {
            let path = site.data.join(name);
            let stub = raw::open(&path, libc::O_WRONLY, 0).unwrap();
            match index {
                0 => stub.write_all_at(b"a line", 4_096).unwrap(),
                1 => stub.set_len(3_000).unwrap(),
                _ => stub.write_all_at(b"oops", 1_000).unwrap(),
            }
            let damaged = std::fs::read(&path).unwrap();
            zoo.only(name, if self == Meet::KeepLocal { damaged } else { original.clone() });
        }
    }

    /// Whether the point is met while the daemon starts.
    pub fn at_start(self) -> bool {
        matches!(self, Meet::RecoverRelease | Meet::RecoverRecall | Meet::RecoverWhole)
    }

    /// What meets the point. The daemon dies on the way, so errors are expected; versions
    /// that may be found afterwards are noted before they are made.
    pub fn run(self, mount: &Mount, site: &Site, zoo: &mut Zoo) {
        let big = site.mnt.join(BIG);
        match self {
            Meet::Archive => verb(mount, site, "archive"),
            Meet::Migrate => verb(mount, site, "migrate"),
            Meet::Release | Meet::ReleaseEdited | Meet::ReleaseMarked => {
                verb(mount, site, "release");
            }
            Meet::Recall => verb(mount, site, "recall"),
            Meet::Read => {
                for path in zoo.versions.keys() {
                    drop(std::fs::read(site.mnt.join(path)));
                }
            }
            Meet::Write => {
                zoo.allow(BIG, changed(&zoo.latest(BIG)));
                if let Ok(file) = raw::open(&big, libc::O_RDWR, 0) {
                    let written = file.write_all_at(&change(), CHANGE_AT);
                    if written.is_ok() && file.sync_all().is_ok() {
                        zoo.only(BIG, zoo.latest(BIG));
                    }
                }
            }
            Meet::Truncate | Meet::TruncateArchived => {
                let mut cut = zoo.latest(BIG);
                cut.truncate(CUT_AT as usize);
                zoo.allow(BIG, cut);
                nix::unistd::truncate(&big, CUT_AT as i64).ok();
            }
            Meet::Cancel => cancel(mount, site),
            Meet::OpenTruncated => {
                zoo.allow(BIG, Vec::new());
                drop(raw::open(&big, libc::O_WRONLY | libc::O_TRUNC, 0));
            }
            // Before 1678: 64 bits of nanoseconds end there.
            Meet::TimeNoRecordHolds => {
                std::process::Command::new("touch")
                    .args(["-m", "-d", "1600-01-01"])
                    .arg(&big)
                    .output()
                    .unwrap();
            }
            Meet::Drain => {
                mount.coldfs(["drain".as_ref(), site.mnt.as_os_str()]);
            }
            Meet::OpenForWrite => drop(raw::open(&big, libc::O_RDWR, 0)),
            Meet::CloseChanged => {
                zoo.allow(BIG, changed(&zoo.latest(BIG)));
                let Ok(file) = raw::open(&big, libc::O_RDWR, 0) else { return };
                let written = file.write_all_at(&change(), CHANGE_AT);
                if written.is_ok() && file.sync_data().is_ok() {
                    zoo.only(BIG, zoo.latest(BIG));
                }
            }
            Meet::RecoverRelease | Meet::RecoverRecall | Meet::RecoverWhole => {}
            Meet::Adopt => fsck(mount, site, "--adopt"),
            Meet::Repair | Meet::Found | Meet::Void | Meet::Unmark => fsck(mount, site, "--repair"),
            Meet::KeepRemote => keep(mount, site, "remote"),
            Meet::KeepLocal => keep(mount, site, "local"),
        }
    }

    /// What a person does before the tree is whole again.
    pub fn mend(self, mount: &Mount, site: &Site) {
        match self {
            Meet::Adopt => fsck(mount, site, "--adopt"),
            Meet::Repair | Meet::Found | Meet::Void | Meet::Unmark | Meet::ReleaseMarked => {
                fsck(mount, site, "--repair");
            }
            Meet::KeepRemote => choose(mount, site, "remote"),
            Meet::KeepLocal => choose(mount, site, "local"),
            _ => {}
        }
    }
}

/// Takes all segments out of a `disk:` store: what they were.
fn take_segments(store: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            segments.extend(take_segments(&path));
        } else if path.to_str().is_some_and(|path| path.contains("/seg/")) {
            segments.push((path.clone(), std::fs::read(&path).unwrap()));
            std::fs::remove_file(path).unwrap();
        }
    }
    segments
}

fn fsck(mount: &Mount, site: &Site, mode: &str) {
    mount.coldfs(["fsck".as_ref(), mode.as_ref(), site.mnt.as_os_str()]);
}

/// Those that are chosen already are no conflicts any more.
fn keep(mount: &Mount, site: &Site, which: &str) {
    for name in DAMAGED {
        let path = site.mnt.join(name);
        mount.coldfs(["fsck".as_ref(), "--keep".as_ref(), which.as_ref(), path.as_os_str()]);
    }
}

/// As a person does it: who is told that somebody has the file open runs the command again.
fn choose(mount: &Mount, site: &Site, which: &str) {
    for name in DAMAGED {
        let path = site.mnt.join(name);
        let chosen = super::harness::wait_for(CHOICE_LIMIT, || {
            let keep = ["fsck".as_ref(), "--keep".as_ref(), which.as_ref(), path.as_os_str()];
            let output = mount.coldfs(keep);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            (!said.contains("somebody has it open")).then_some(())
        });
        assert!(chosen.is_some(), "{name} is open all the time");
    }
}

/// Paths whose times and size a workload may move.
pub fn changes(path: &Path) -> bool {
    path == Path::new(BIG)
}

fn change() -> Vec<u8> {
    pattern::bytes(301, CHANGE_BYTES)
}

fn changed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[CHANGE_AT as usize..][..CHANGE_BYTES].copy_from_slice(&change());
    bytes
}

fn with_mount(site: &Site, verb: &str) {
    let mount = site.mount();
    mount.all(verb, &site.mnt);
    mount.detach();
}

fn verb(mount: &Mount, site: &Site, verb: &str) {
    mount.coldfs([verb.as_ref(), "-r".as_ref(), "--wait".as_ref(), site.mnt.as_os_str()]);
}

/// Dies once at a point that the test is not about.
fn die_first(site: &Site, point: CrashPoint, work: impl FnOnce(&Mount)) {
    let mount = site.start(&Start::dying_at(point.name()));
    work(&mount);
    let died = mount.died_or_detached(super::sweep::DEATH_LIMIT);
    assert!(died, "{} was not reached on the way to another point", point.name());
}

/// Recalls a long file and cancels it on the way, a little later each time.
fn cancel(mount: &Mount, site: &Site) {
    let long = site.mnt.join(LONG);
    for round in 0..CANCEL_ROUNDS {
        let path = long.clone();
        let socket = mount.socket();
        let recall = std::thread::spawn(move || {
            super::harness::control::run_move(&socket, "recall", &path, false)
        });
        std::thread::sleep(std::time::Duration::from_millis(3 + 2 * round));
        let request = serde_json::json!({ "paths": [long.to_str().unwrap()] });
        let answer = super::harness::control::post(&mount.socket(), "/v1/cancel", &request);
        drop(recall.join());
        if answer.is_none() {
            return;
        }
        mount.quick("release", &long, false);
    }
}

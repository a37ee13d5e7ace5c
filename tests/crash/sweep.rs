//! Die at every point of `failpoint::ALL`, die again in the recovery, and compare.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use coldfs::failpoint::{ALL, CrashPoint};

use super::harness::facts::{Depth, Strict, Tree};
use super::harness::mount::{Mount, Start};
use super::harness::site::Site;
use super::harness::volume::{Cut, FsKind};
use super::harness::zoo::Zoo;
use super::harness::{can_loop, can_tier, say};
use super::meet::{Meet, changes, work};

/// How long after its work a daemon may live before its point counts as missed.
pub const DEATH_LIMIT: Duration = Duration::from_secs(5);

/// Size of a loop image: XFS wants 300 MiB.
const IMAGE_MIB: u64 = 512;

/// How the daemon's death goes on.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Kill,
    PowerCut(FsKind, Cut),
}

/// Everything, as `scripts/soak crash` asks for; else each point with every work that meets it,
/// and one filesystem and one way of losing power a point, in turn.
fn full() -> bool {
    std::env::var_os("COLDFS_CRASH_FULL").is_some()
}

#[test]
fn a_kill_at_every_point_leaves_the_old_or_the_new_version() {
    sweep(|point, _| {
        // The first file of a batch, and one with others before it.
        let counts: &[u32] = if full() { &[1, 3] } else { &[1] };
        counts.iter().map(|count| (point, *count, Ending::Kill)).collect()
    });
}

#[test]
fn a_power_cut_on_ext4_at_every_point_leaves_the_old_or_the_new_version() {
    sweep_cuts(FsKind::Ext4, 0);
}

#[test]
fn a_power_cut_on_xfs_at_every_point_leaves_the_old_or_the_new_version() {
    sweep_cuts(FsKind::Xfs, 1);
}

fn sweep_cuts(kind: FsKind, turn: usize) {
    if !can_loop() {
        return;
    }
    sweep(|point, index| {
        let cuts = [Cut::Shutdown, Cut::ImageCopy];
        let chosen = match (full(), (index + turn).is_multiple_of(2)) {
            (true, _) => &cuts[..],
            (false, true) => &cuts[index / 2 % 2..][..1],
            (false, false) => &[],
        };
        chosen.iter().map(|cut| (point, 1, Ending::PowerCut(kind, *cut))).collect()
    });
}

fn sweep(runs: impl Fn(CrashPoint, usize) -> Vec<(CrashPoint, u32, Ending)>) {
    if !can_tier() {
        return;
    }
    let only = std::env::var("COLDFS_SWEEP").ok();
    let mut wrong = Vec::new();
    for (index, point) in ALL.iter().enumerate() {
        if only.as_ref().is_some_and(|only| only != point.name()) {
            continue;
        }
        let mut reached = 0;
        let runs = runs(*point, index);
        if runs.is_empty() {
            // The other filesystem's turn.
            continue;
        }
        for (point, count, ending) in runs {
            for meet in work(point) {
                say(&format!("{}:{count} by {meet:?}, {ending:?}", point.name()));
                // One wrong point must not hide the others.
                let run = std::panic::catch_unwind(|| one(point, count, *meet, ending));
                match run {
                    Ok(true) => reached += 1,
                    Ok(false) => {}
                    Err(panic) => {
                        let what = panic
                            .downcast_ref::<String>()
                            .cloned()
                            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()))
                            .unwrap_or_default();
                        wrong.push(format!(
                            "{}:{count} by {meet:?}, {ending:?}: {what}",
                            point.name()
                        ));
                    }
                }
            }
        }
        if reached == 0 {
            wrong.push(format!("{}: no work reaches it, so it is not swept", point.name()));
        }
    }
    assert!(wrong.is_empty(), "{} findings:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

/// One death; whether the point was reached.
fn one(point: CrashPoint, count: u32, meet: Meet, ending: Ending) -> bool {
    let mut site = match ending {
        Ending::Kill => Site::new(),
        Ending::PowerCut(kind, _) => Site::on(kind, IMAGE_MIB),
    };
    let mut zoo = Zoo::build(&site.data);
    let before = Tree::of(&site.data, Depth::Stat).unwrap();
    meet.prepare(&site, &mut zoo);
    if let Ending::PowerCut(..) = ending {
        super::harness::must(std::process::Command::new("sync").arg("-f").arg(&site.data));
    }

    let armed = Start::dying_at(&format!("{}:{count}", point.name()));
    let reached = match site.try_start(&armed) {
        Err(died) => {
            assert_eq!(died.status.signal(), Some(libc::SIGKILL), "at start: {}", died.log);
            assert!(meet.at_start(), "{} is met at start by {meet:?}", point.name());
            true
        }
        Ok(mount) => {
            meet.run(&mount, &site, &mut zoo);
            mount.died_or_detached(if count == 1 { DEATH_LIMIT } else { DEATH_LIMIT / 5 })
        }
    };
    if let (true, Ending::PowerCut(_, how)) = (reached, ending) {
        let volume = site.volume();
        volume.cut(how);
        volume.restore();
    } else {
        assert_raw(&zoo, &site, "after the death");
    }

    for name in ["recover-after-file", "recover-before-clear"] {
        die_again(&site, name);
        if let Ending::Kill = ending {
            assert_raw(&zoo, &site, "after a death in recovery");
        }
    }

    let mount = site.mount();
    meet.mend(&mount, &site);
    assert_clean(&mount, &site);
    let after = Tree::of(&site.mnt, Depth::Stat).unwrap();
    assert_same_facts(&before, &after, "after recovery");
    assert_content(&zoo, &site, "after recovery");
    mount.detach();
    assert_raw(&zoo, &site, "detached after recovery");
    again(&site, &zoo);
    reached
}

/// Once more through every state: a wrong record that recovery left would show now.
fn again(site: &Site, zoo: &Zoo) {
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    assert_raw(zoo, site, "migrated again");
    let mount = site.mount();
    assert_content(zoo, site, "read after another migration");
    assert_clean(&mount, site);
    mount.detach();
}

/// Starts a daemon that dies in its recovery, if there is anything to recover.
fn die_again(site: &Site, name: &str) {
    match site.try_start(&Start::dying_at(name)) {
        Err(died) => {
            assert_eq!(died.status.signal(), Some(libc::SIGKILL), "in recovery: {}", died.log);
        }
        Ok(mount) => _ = mount.died_or_detached(Duration::ZERO),
    }
}

fn assert_raw(zoo: &Zoo, site: &Site, when: &str) {
    let wrong = zoo.wrong_raw(&site.data);
    assert!(wrong.is_empty(), "P6, raw bodies {when}:\n  {}", wrong.join("\n  "));
}

fn assert_content(zoo: &Zoo, site: &Site, when: &str) {
    let wrong = zoo.wrong_content(&site.mnt);
    assert!(wrong.is_empty(), "P7, contents {when}:\n  {}", wrong.join("\n  "));
}

fn assert_clean(mount: &Mount, site: &Site) {
    let output = mount.coldfs(["fsck".as_ref(), site.mnt.as_os_str()]);
    assert!(
        output.status.success(),
        "fsck is not clean: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Everything that was there and was not meant to change looks as it did, but for ctime,
/// which a repair may move, and allocation.
fn assert_same_facts(before: &Tree, after: &Tree, when: &str) {
    let lines: Vec<String> = before
        .differences(after, Strict::SameFile)
        .into_iter()
        .filter(|line| {
            let path = line.split(": ").next().unwrap_or_default();
            let may_change = line.contains(": ctime: ") || line.contains(": blocks: ");
            // The root holds `.coldfs` now; copies were made by the test.
            !may_change && path != "." && !changes(Path::new(path)) && !line.contains("only on")
        })
        .collect();
    assert!(lines.is_empty(), "P1, {when}:\n  {}", lines.join("\n  "));
}

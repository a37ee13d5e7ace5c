//! Bodies that come, or are taken, a few bytes at a time: with progress enough they are waited for,
//! without it a deadline ends them as it ends silence. Whoever waits can be killed, who waits for
//! nothing goes on, and nothing is lost.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::liar::{Liar, Lie, Op, Rule};
use super::harness::mount::Mount;
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::{begin_silent, can_tier, wait_for};

/// Recalled inside `open`, whole by the first read, and served by chunks.
const FILES: [(&str, usize); 3] = [("small", 200_000), ("medium", 3 << 20), ("large", 20 << 20)];
const DEADLINE: Duration = Duration::from_secs(4);
/// One that no test waits for.
const LONG: Duration = Duration::from_secs(60);
/// What may pass on a busy machine until somebody hears of what was done a moment ago: less than
/// [`LONG`].
const SOON: Duration = Duration::from_secs(20);

/// A megabyte takes a part of the deadline, a file several.
const ENOUGH: Lie = Lie::Drips(64 << 10, Duration::from_millis(20));
/// A megabyte takes half a day.
const TRICKLE: Lie = Lie::Drips(10, Duration::from_millis(400));

struct Dripping {
    mount: Mount,
    liar: Liar,
    site: Site,
}

impl Dripping {
    /// The files after this verb, and one that is never moved.
    fn new(verb: Option<&str>, deadline: Duration) -> Option<Self> {
        if !can_tier() {
            return None;
        }
        let (liar, site) = (Liar::start(), Site::new());
        for (seed, (name, bytes)) in FILES.into_iter().enumerate() {
            std::fs::write(site.data.join(name), pattern::bytes(seed as u64, bytes)).unwrap();
        }
        let config = site.dir.path().join("coldfs.toml");
        let seconds = deadline.as_secs();
        let text = format!("[recall]\ndeadline = '{seconds}s'\n[cache]\nchunks = 0\n");
        std::fs::write(&config, text).unwrap();
        let mut start = liar.mount_options();
        start.args.extend(["--config".into(), config.to_str().unwrap().into()]);
        let mount = site.start(&start);
        if let Some(verb) = verb {
            mount.all(verb, &site.mnt);
        }
        std::fs::write(site.mnt.join("here"), "here").unwrap();
        liar.take_seen();
        Some(Self { mount, liar, site })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.mnt.join(name)
    }

    fn reads(&self, seed: usize) -> Result<(), i32> {
        let (name, bytes) = FILES[seed];
        let read = std::fs::read(self.path(name)).map_err(|error| error.raw_os_error().unwrap())?;
        assert!(read == pattern::bytes(seed as u64, bytes), "{name} reads wrong");
        Ok(())
    }

    fn is_stub(&self, name: &str) -> bool {
        looks(&std::fs::read(self.site.data.join(name)).unwrap()) == Looks::Stub
    }

    fn is_asked(&self, op: Op) -> bool {
        self.liar.take_seen().iter().any(|asked| asked.op == op)
    }

    fn end(self) {
        self.liar.heal();
        for (seed, (name, _)) in FILES.iter().enumerate() {
            let right = wait_for(Duration::from_secs(60), || self.reads(seed).ok());
            assert!(right.is_some(), "{name}: {:?}", self.reads(seed));
        }
        self.mount.detach();
    }
}

#[test]
fn a_body_that_drips_but_comes_is_waited_for() {
    let Some(dripping) = Dripping::new(Some("migrate"), DEADLINE) else { return };
    dripping.liar.script(Rule::new(ENOUGH).on(Op::Get));
    for (seed, (name, _)) in FILES.iter().enumerate() {
        assert_eq!(dripping.reads(seed), Ok(()), "{name}");
        dripping.mount.all("recall", &dripping.path(name));
        // Reads the segment's index.
        dripping.mount.all("release", &dripping.path(name));
        let written = std::fs::File::options().write(true).open(dripping.path(name));
        written.unwrap_or_else(|error| panic!("{name} for writing: {error}"));
    }
    dripping.end();
}

#[test]
fn a_body_that_comes_a_few_bytes_at_a_time_ends_at_the_deadline_like_silence() {
    let Some(dripping) = Dripping::new(Some("migrate"), DEADLINE) else { return };
    dripping.liar.script(Rule::new(TRICKLE).on(Op::Get));
    for (seed, (name, _)) in FILES.iter().enumerate() {
        let begun = Instant::now();
        assert_eq!(dripping.reads(seed), Err(libc::ETIMEDOUT), "{name}");
        let waited = begun.elapsed();
        assert!(waited >= DEADLINE && waited < DEADLINE + SOON, "{name}: {waited:?}");
        assert!(dripping.is_stub(name), "{name}");
        // Who needs no byte of it waits for none.
        let begun = Instant::now();
        assert_eq!(std::fs::read(dripping.path("here")).unwrap(), b"here");
        assert_eq!(std::fs::metadata(dripping.path(name)).unwrap().len(), FILES[seed].1 as u64);
        assert!(begun.elapsed() < DEADLINE, "{name} holds up who needs nothing of it");
    }
    let output = dripping.mount.coldfs(["recall".as_ref(), dripping.path("medium").as_os_str()]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("in 4 s"), "{text}");
    dripping.end();
}

#[test]
fn a_process_killed_while_bytes_drip_dies_and_leaves_nothing_open() {
    let Some(dripping) = Dripping::new(Some("migrate"), LONG) else { return };
    dripping.liar.script(Rule::new(TRICKLE).on(Op::Get));
    let write = format!("of={}", dripping.path("medium").display());
    let kills = [
        ("open", begin_silent(Command::new("cat").arg(dripping.path("small")))),
        ("read", begin_silent(Command::new("cat").arg(dripping.path("large")))),
        ("write", begin_silent(Command::new("dd").args(["if=/dev/zero", &write, "conv=notrunc"]))),
    ];
    std::thread::sleep(Duration::from_millis(400));
    for (what, mut child) in kills {
        assert!(child.try_wait().unwrap().is_none(), "{what}: had nothing to wait for");
        child.kill().unwrap();
        let ended = wait_for(SOON, || child.try_wait().unwrap());
        assert!(ended.is_some(), "{what}: a killed process still waits");
    }
    dripping.end();
}

#[test]
fn a_body_that_is_taken_slowly_is_sent_and_one_that_is_hardly_taken_is_given_up_by_a_cancel() {
    let Some(dripping) = Dripping::new(None, LONG) else { return };
    dripping.liar.script(Rule::new(TRICKLE).on(Op::Put).on(Op::Part));
    for (seed, (name, bytes)) in FILES.iter().enumerate() {
        let path = dripping.path(name);
        std::thread::scope(|scope| {
            let archive = scope.spawn(|| dripping.mount.quick("archive", &path, false));
            let asked = wait_for(Duration::from_secs(60), || {
                (dripping.is_asked(Op::Put) || dripping.is_asked(Op::Part)).then_some(())
            });
            assert!(asked.is_some(), "{name}: nothing is sent");
            assert_eq!(dripping.reads(seed), Ok(()), "{name}");
            let begun = Instant::now();
            std::fs::write(&path, pattern::bytes(seed as u64, *bytes)).unwrap();
            assert!(begun.elapsed() < SOON, "{name}: a writer waits for the store");
            dripping.mount.coldfs(["cancel".as_ref(), path.as_os_str()]);
            let ended = wait_for(2 * SOON, || archive.is_finished().then_some(()));
            assert!(ended.is_some(), "{name}: a cancelled archive goes on");
        });
        assert_eq!(dripping.mount.state(&path), "resident", "{name}");
    }
    dripping.liar.heal();
    dripping.liar.script(Rule::new(ENOUGH).on(Op::Put).on(Op::Part));
    dripping.mount.all("migrate", &dripping.site.mnt);
    for (name, _) in FILES {
        assert!(dripping.is_stub(name), "{name}");
    }
    dripping.end();
}

//! Every call of every path, with every fault, once and for good.

use std::time::Duration;

use coldfs::store::call::Call;
use coldfs::store::faulty::{Fault, Rule};
use coldfs::store::fuse_thread;
use futures::StreamExt;

use super::paths::{End, LIMIT, Path};
use super::world::{World, run};

/// Worlds at once: they wait for disks and deadlines more than they compute.
const AT_ONCE: usize = 12;

fn faults(world: &World) -> Vec<Fault> {
    let mut faults = vec![
        Fault::NotFound,
        Fault::AlreadyExists,
        Fault::Offline,
        Fault::Denied,
        Fault::Full,
        Fault::Corrupt,
        Fault::Unavailable,
        Fault::Hang,
        Fault::Delay(Duration::from_millis(30)),
        Fault::Truncate(0),
        Fault::Truncate(100),
        Fault::FlipBit(3),
        Fault::FlipBit(8 * 70),
        Fault::FlipBit(8 * 5_000),
        Fault::Vanish,
        Fault::DoneButFails,
        Fault::OkButNotDone,
    ];
    // As long as the path's own, and of this tenant, too.
    faults.extend(world.twin.clone().map(Fault::Swap));
    faults
}

/// How often a case is tried until its fault meets the call that it is for.
const TRIES: u32 = 4;

/// What a fault does to the call that meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing that its caller may notice.
    None,
    /// The store does not answer.
    Silence,
    /// The store refuses, in words that must be passed on.
    Refusal(&'static str),
    /// The store answers, wrongly.
    Lie,
}

fn effect(fault: &Fault, call: Call) -> Effect {
    let reads = matches!(call, Call::Get | Call::Size);
    match fault {
        Fault::Delay(_) => Effect::None,
        Fault::Unavailable | Fault::Hang | Fault::DoneButFails => Effect::Silence,
        Fault::OkButNotDone if reads || call == Call::Upload => Effect::Silence,
        Fault::Offline => Effect::Refusal("offline"),
        Fault::Denied => Effect::Refusal("denies it"),
        Fault::Full => Effect::Refusal("full"),
        Fault::AlreadyExists => Effect::Refusal("already"),
        Fault::Swap(_) | Fault::Vanish if !reads => Effect::None,
        Fault::FlipBit(_) | Fault::Truncate(_)
            if matches!(call, Call::Size | Call::Upload | Call::Finish) =>
        {
            Effect::None
        }
        Fault::NotFound
        | Fault::Corrupt
        | Fault::Truncate(_)
        | Fault::FlipBit(_)
        | Fault::Vanish
        | Fault::OkButNotDone
        | Fault::Swap(_) => Effect::Lie,
    }
}

/// One case: this call and, if `forever`, all after it. On a machine that is busy files may be
/// packed into other segments than when the calls were counted: then it is tried again.
async fn case(path: Path, number: usize, call: Call, fault_number: usize, forever: bool) {
    let mut others = Vec::new();
    for _ in 0..TRIES {
        match attempt(path, number, call, fault_number, forever).await {
            Ok(()) => return,
            Err(seen) => others.push(seen),
        }
    }
    panic!("{path:?}: call {number} was never {call:?}, as it was counted: {others:?}");
}

/// One try; the calls that were seen, where the fault met another call than it should have.
async fn attempt(
    path: Path,
    number: usize,
    call: Call,
    fault_number: usize,
    forever: bool,
) -> Result<(), Vec<Call>> {
    let mut world = path.prepare().await;
    let fault = faults(&world)[fault_number].clone();
    let what = format!("{path:?}: call {number} ({call:?}), {fault:?}, forever: {forever}");
    let mut rule = Rule::any(fault.clone()).skipping(u32::try_from(number).unwrap());
    if !forever {
        rule = rule.times(1);
    }
    let segments = world.segments();
    world.store.script(rule);
    world.store.take_seen();
    let end =
        tokio::time::timeout(LIMIT, path.run(&mut world, path.tires_of(&fault).then_some(number)))
            .await;
    let end = end.unwrap_or_else(|_hangs| panic!("{what}: hangs"));
    let seen = world.store.take_seen();
    if seen.get(number) != Some(&call) {
        return Err(seen);
    }
    world.store.heal();

    judge(path, effect(&fault, call), &fault, forever, &end, &what);
    let gone = segments.iter().any(|key| !world.segments().contains(key));
    keeps(path, &mut world, &end, gone, &what).await;
    Ok(())
}

/// Whether it ended as promised.
fn judge(path: Path, effect: Effect, fault: &Fault, forever: bool, end: &End, what: &str) {
    match (effect, end) {
        (Effect::None, End::Done) => {}
        (Effect::None, _)
            if forever
                && matches!(
                    fault,
                    Fault::FlipBit(_) | Fault::Truncate(_) | Fault::Vanish | Fault::Swap(_)
                ) => {}
        (Effect::None, _) => panic!("{what}: {end:?}"),
        (_, End::Done) => {
            assert!(!forever || !path.must_notice(fault), "{what}: taken for done");
        }
        (Effect::Silence, End::Errno(errno)) => assert_eq!(*errno, libc::ETIMEDOUT, "{what}"),
        (Effect::Refusal(_) | Effect::Lie, End::Errno(errno)) => {
            assert_eq!(*errno, libc::EIO, "{what}");
        }
        // A release asks for its index for a minute before it says that the store is away.
        (Effect::Silence, End::Cancelled) if path != Path::Claim => {}
        (_, End::Cancelled) => assert!(path.tires_of(fault), "{what}: slow"),
        (_, End::Left) => {}
        (effect, End::Said(cause, next)) => {
            assert!(!next.is_empty(), "{what}: no next step");
            // The object, and what happened to it.
            let names = cause.contains("t/") || cause.contains("t-beside/") || cause.contains(':');
            assert!(names, "{what}: names nothing: {cause}");
            if let Effect::Refusal(word) = effect
                && (forever || path != Path::Claim)
            {
                assert!(cause.contains(word), "{what}: {cause}");
            }
        }
    }
}

/// Whether nothing was lost: in this life, raw, and in the next.
async fn keeps(path: Path, world: &mut World, end: &End, gone: bool, what: &str) {
    let expected = if matches!(end, End::Done) { path.after() } else { path.before() };
    let may_be_lost = gone && path.starts_cold();
    for round in ["this life", "the next"] {
        for (file, bytes) in &expected {
            let read = tokio::time::timeout(LIMIT, world.life().read_all(file)).await;
            let read = read.unwrap_or_else(|_hangs| panic!("{what}: {file} hangs in {round}"));
            match read {
                Ok(read) => assert!(read == *bytes, "{what}: {file} reads wrong in {round}"),
                Err(libc::EIO) if may_be_lost => {}
                // A copied stub that was not adopted.
                Err(libc::EIO) if *file == "copy" => {}
                Err(errno) => panic!("{what}: {file} is lost in {round}: errno {errno}"),
            }
        }
        world.stop().await;
        for (file, bytes) in &expected {
            // A torn head is written again from the segment's index; it is no file's bytes.
            let torn = may_be_lost && *file == "torn";
            assert!(
                torn || world.is_whole_or_stub(file, bytes),
                "{what}: {file} raw after {round}"
            );
        }
        world.start().await;
    }
    if path == Path::FsckAdopt && !gone {
        let mode = coldfs::fsck::Mode::Adopt;
        world.life().fsck("copy", mode).await.unwrap();
        let read = world.life().read_all("copy").await;
        assert!(read.as_ref() == Ok(&expected["copy"]), "{what}: adopted later");
    }
}

impl Path {
    /// Whether a person gives it up: a call that never ends, and what asks a store that is away for
    /// minutes, file by file.
    fn tires_of(self, fault: &Fault) -> bool {
        match fault {
            Fault::Hang => true,
            Fault::Unavailable | Fault::DoneButFails | Fault::OkButNotDone => self == Path::Passes,
            _ => false,
        }
    }

    /// Whether a store that goes wrong for good must end it in an error.
    fn must_notice(self, fault: &Fault) -> bool {
        match self {
            // What waits for the store is put in order later.
            Path::Start => false,
            // Shorter than that bit is far.
            Path::Claim if matches!(fault, Fault::FlipBit(bit) if *bit > 8 * 1_000) => false,
            // Only a part of what is read is needed, and this bit may be another's: of an index, or of
            // a block around several files.
            Path::Release
            | Path::Migrate
            | Path::Passes
            | Path::RecallMany
            | Path::Drain
            | Path::FsckCheck
            | Path::FsckRepair
            | Path::FsckAdopt => !matches!(fault, Fault::FlipBit(_)),
            _ => true,
        }
    }
}

fn matrix(paths: &[Path]) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        // As the daemon does: a lease that somebody breaks sends SIGIO, which kills by default.
        let _leases = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::io()).unwrap();
        let mut cases = Vec::new();
        for path in paths {
            let mut world = path.prepare().await;
            let kinds = faults(&world);
            world.store.take_seen();
            let end = path.run(&mut world, None).await;
            assert!(matches!(end, End::Done), "{path:?} without a fault: {end:?}");
            let calls = world.store.take_seen();
            assert!(!calls.is_empty(), "{path:?} asks the store for nothing");
            println!("{path:?}: {calls:?}");
            for (number, call) in calls.into_iter().enumerate() {
                for (fault, kind) in kinds.iter().enumerate() {
                    // The same bit flipped again on the way back would undo it.
                    let undone = matches!(kind, Fault::FlipBit(_))
                        && matches!(call, Call::PutNew | Call::Part);
                    let often: &[bool] = if undone { &[false] } else { &[false, true] };
                    cases
                        .extend(often.iter().map(|forever| (*path, number, call, fault, *forever)));
                }
            }
        }
        println!("{} cases", cases.len());
        let cases = cases.into_iter().map(|(path, number, call, fault, forever)| {
            tokio::spawn(case(path, number, call, fault, forever))
        });
        let mut failed = 0;
        let mut running = futures::stream::iter(cases).buffer_unordered(AT_ONCE);
        while let Some(ended) = running.next().await {
            failed += usize::from(ended.is_err());
        }
        assert_eq!(failed, 0, "cases failed; each is named above");
    });
    assert_eq!(fuse_thread::violations(), 0, "a FUSE thread waited for the store");
}

#[test]
fn archive_and_release_survive_every_fault_of_every_call() {
    matrix(&[Path::Archive, Path::Release, Path::Migrate, Path::Claim]);
}

#[test]
fn what_a_policy_moves_survives_every_fault_of_every_call() {
    matrix(&[Path::Passes]);
}

#[test]
fn a_large_archive_survives_every_fault_of_every_call() {
    matrix(&[Path::ArchiveLarge]);
}

#[test]
fn recalls_reads_and_writes_survive_every_fault_of_every_call() {
    matrix(&[Path::RecallWhole, Path::ReadInOpen, Path::ReadByRange, Path::Write, Path::Truncate]);
}

#[test]
fn moves_of_many_files_survive_every_fault_of_every_call() {
    matrix(&[Path::RecallMany, Path::Drain]);
}

#[test]
fn fsck_and_recovery_survive_every_fault_of_every_call() {
    matrix(&[Path::FsckCheck, Path::FsckRepair, Path::FsckAdopt, Path::KeepRemote, Path::Start]);
}

#[test]
fn what_needs_no_byte_asks_for_none() {
    run(async {
        let world = Path::ReadInOpen.prepare().await;
        world.store.script(Rule::any(Fault::Hang));
        world.store.take_seen();
        assert_eq!(world.life().truncate("a", 0).await, Ok(()));
        assert_eq!(world.life().read_all("a").await, Ok(vec![]));
        assert_eq!(world.store.take_seen(), []);
    });
}

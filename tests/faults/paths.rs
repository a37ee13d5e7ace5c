//! The paths that ask the store, each with what it starts from and what may come of it.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use coldfs::fsck::{Keep, Mode, Trouble};
use coldfs::migrate::{MigrateError, Outcome, Skip};
use coldfs::recall::RecallError;
use coldfs::tier::State;
use tokio_util::sync::CancellationToken;

use super::passing::passes;
use super::world::{DEADLINE, Life, RANGE_BYTES, World, content};

/// How a path ended, as whoever asked for it sees it.
#[derive(Debug)]
pub enum End {
    Done,
    /// An application got an errno.
    Errno(i32),
    /// A command failed: the cause and the next step that are printed.
    Said(String, String),
    /// Nobody waits for it: it is left for later.
    Left,
    /// It was cancelled because it took too long for this test's patience.
    Cancelled,
}

/// What the files must hold afterwards, by name.
pub type Expected = BTreeMap<&'static str, Vec<u8>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Archive,
    ArchiveLarge,
    Release,
    Migrate,
    Passes,
    RecallWhole,
    RecallMany,
    Drain,
    ReadInOpen,
    ReadByRange,
    Write,
    Truncate,
    FsckCheck,
    FsckRepair,
    FsckAdopt,
    KeepRemote,
    Start,
    Claim,
}

impl Path {
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Path::ArchiveLarge => &["large"],
            Path::ReadByRange => &["range"],
            Path::FsckAdopt => &["a", "b", "copy"],
            Path::Start => &["torn", "hash", "sure"],
            Path::RecallMany | Path::Drain => &["a", "b", "range"],
            _ => &["a", "b"],
        }
    }

    /// Whether it begins with bytes that are in the store only.
    pub fn starts_cold(self) -> bool {
        !matches!(
            self,
            Path::Archive
                | Path::ArchiveLarge
                | Path::Release
                | Path::Migrate
                | Path::Passes
                | Path::Claim
        )
    }

    /// Brings a new world to where the path starts.
    pub async fn prepare(self) -> World {
        let mut world = World::new(&[]).await;
        let cancel = CancellationToken::new();
        let twins: Vec<_> = self.files().iter().map(|file| format!("twin-{file}")).collect();
        let twins: Vec<&str> = twins.iter().map(String::as_str).collect();
        if self != Path::ArchiveLarge {
            for file in &twins {
                world.write(file);
            }
            all_done(&world.life().archive(&twins, &cancel).await);
            world.twin = world.segments().pop();
        }
        for file in self.files().iter().filter(|file| **file != "copy") {
            world.write(file);
        }
        let names: Vec<&str> = self.files().iter().copied().filter(|f| *f != "copy").collect();
        match self {
            Path::Archive | Path::ArchiveLarge | Path::Migrate | Path::Passes | Path::Claim => {
                return world;
            }
            _ => all_done(&world.life().archive(&names, &cancel).await),
        }
        match self {
            Path::Release => {}
            Path::FsckCheck | Path::FsckRepair => {
                all_done(&world.life().release(&["a"], &cancel).await);
            }
            Path::FsckAdopt => {
                all_done(&world.life().release(&["a"], &cancel).await);
                let stub = std::fs::read(world.path("a")).unwrap();
                std::fs::write(world.path("copy"), stub).unwrap();
            }
            Path::Start => {
                all_done(&world.life().release(&["torn"], &cancel).await);
                world.life().set_state("torn", State::Recalling);
                let file = std::fs::File::options().write(true).open(world.path("torn")).unwrap();
                let whole = content("torn");
                file.write_all_at(&whole[4096..], 4096).unwrap();
                file.write_all_at(&whole[..512], 0).unwrap();
                world.life().set_state("hash", State::Releasing);
                let file = std::fs::File::options().write(true).open(world.path("hash")).unwrap();
                file.set_modified(SystemTime::now()).unwrap();
                world.life().set_state("sure", State::Suspect);
                for file in self.files() {
                    world.life().leave_behind(file);
                }
            }
            Path::KeepRemote => {
                all_done(&world.life().release(&names, &cancel).await);
                world.stop().await;
                std::fs::write(world.path("a"), meddled()).unwrap();
            }
            _ => all_done(&world.life().release(&names, &cancel).await),
        }
        world.restart_unless_start(self).await;
        world
    }

    /// What the files hold before the path.
    pub fn before(self) -> Expected {
        let bytes = |file: &str| match (self, file) {
            (Path::KeepRemote, "a") => meddled(),
            (_, "copy") => content("a"),
            _ => content(file),
        };
        self.files().iter().map(|file| (*file, bytes(file))).collect()
    }

    /// What they hold once it is done.
    pub fn after(self) -> Expected {
        let mut expected = self.before();
        match self {
            Path::Write => {
                expected.get_mut("a").unwrap()[10_000..10_005].copy_from_slice(b"wrote");
            }
            Path::Truncate => expected.get_mut("a").unwrap().truncate(9_000),
            Path::KeepRemote => drop(expected.insert("a", content("a"))),
            _ => {}
        }
        expected
    }

    /// Runs it. What is read on the way must be right, however the store behaves. A store ends
    /// every call by itself; one that does not, at the call with this number, is given up by a
    /// person.
    pub async fn run(self, world: &mut World, hangs_at: Option<usize>) -> End {
        let cancel = CancellationToken::new();
        let (stop, store) = (cancel.clone(), world.store.clone());
        let patience = tokio::spawn(async move {
            if let Some(number) = hangs_at {
                // Tens of megabytes may come before, on a machine that is busy.
                while store.seen_count() <= number {
                    tokio::time::sleep(DEADLINE / 10).await;
                }
                tokio::time::sleep(2 * DEADLINE).await;
                stop.cancel();
            }
        });
        let end = self.run_until(world, &cancel).await;
        patience.abort();
        end
    }

    async fn run_until(self, world: &mut World, cancel: &CancellationToken) -> End {
        if self == Path::Start {
            world.start().await;
            return End::Done;
        }
        let life = world.life();
        match self {
            Path::Archive => of_outcomes(life.archive(&["a", "b"], cancel).await),
            Path::ArchiveLarge => of_outcomes(life.archive(&["large"], cancel).await),
            Path::Release => of_outcomes(life.release(&["a", "b"], cancel).await),
            Path::Migrate => match of_outcomes(life.archive(&["a", "b"], cancel).await) {
                End::Done => of_outcomes(life.release(&["a", "b"], cancel).await),
                other => other,
            },
            Path::Passes => {
                let all_cold = || ["a", "b"].iter().all(|file| world.is_stub(file));
                let last = passes(life, world.catalog(), cancel, all_cold).await;
                match (all_cold(), cancel.is_cancelled()) {
                    (true, _) => End::Done,
                    (false, true) => End::Cancelled,
                    (false, false) => {
                        assert!(last.failed > 0 || last.cut_short.is_some(), "{last:?}");
                        End::Left
                    }
                }
            }
            Path::RecallWhole => of_recall(life.recall("a").await),
            Path::RecallMany => of_recall(recall_all(life, self.files()).await),
            Path::Drain => {
                let recalled = recall_all(life, self.files()).await;
                for file in self.files().iter().filter(|_| recalled.is_ok()) {
                    life.forget_copy(file).await.unwrap();
                }
                of_recall(recalled)
            }
            Path::ReadInOpen => of_read(life.read_all("a").await, &content("a")),
            Path::ReadByRange => {
                let whole = content("range");
                let middle = RANGE_BYTES / 2 + 123;
                let page = life.read("range", middle as u64, 4_096).await;
                match of_read(page, &whole[middle..middle + 4_096]) {
                    End::Done => of_read(life.read_all("range").await, &whole),
                    other => other,
                }
            }
            Path::Write => of_errno(life.overwrite("a", 10_000, b"wrote").await),
            Path::Truncate => of_errno(life.truncate("a", 9_000).await),
            Path::FsckCheck => fsck(world, Mode::Check).await,
            Path::FsckRepair => fsck(world, Mode::Repair).await,
            Path::FsckAdopt => fsck(world, Mode::Adopt).await,
            Path::KeepRemote => match life.keep("a", Keep::Remote).await {
                Ok(_kept) => End::Done,
                Err(error) => End::Said(error.to_string(), error.next_step().to_owned()),
            },
            Path::Claim => {
                let claimed = tokio::time::timeout(2 * DEADLINE, life.claim()).await;
                match claimed {
                    Ok(Ok(())) => End::Done,
                    // Its next step is the mount's, the same for all.
                    Ok(Err(cause)) => End::Said(cause, "see doctor".to_owned()),
                    Err(_hangs) => End::Cancelled,
                }
            }
            Path::Start => unreachable!("above"),
        }
    }
}

impl World {
    async fn restart_unless_start(&mut self, path: Path) {
        match path {
            Path::Start => self.stop().await,
            _ => self.restart().await,
        }
    }
}

/// What somebody put in the place of a stub.
fn meddled() -> Vec<u8> {
    content("meddled")[..10_000].to_vec()
}

async fn recall_all(life: &Life, files: &[&str]) -> Result<(), RecallError> {
    let all = futures::future::join_all(files.iter().map(|file| life.recall(file))).await;
    all.into_iter().collect()
}

fn of_recall(recalled: Result<(), RecallError>) -> End {
    match recalled {
        Ok(()) => End::Done,
        Err(error) => End::Said(error.to_string(), error.next_step().to_owned()),
    }
}

async fn fsck(world: &World, mode: Mode) -> End {
    let mut end = End::Done;
    for file in ["a", "b", "copy"] {
        if !world.path(file).exists() {
            continue;
        }
        let before = std::fs::read(world.path(file)).unwrap();
        let finding = world.life().fsck(file, mode).await.unwrap();
        assert!(std::fs::read(world.path(file)).unwrap() == before, "fsck changed {file}");
        if let Some(finding) = finding
            && !(finding.repaired && file == "copy")
        {
            let next = match finding.trouble {
                Trouble::Unanswered | Trouble::Lost | Trouble::VoidRecord => "named by the engine",
                other => panic!("{file}: {other:?}: {}", finding.what),
            };
            end = End::Said(finding.what, next.to_owned());
        }
    }
    end
}

fn all_done(outcomes: &[Outcome]) {
    let done = |outcome: &Outcome| matches!(outcome, Outcome::Done(_));
    assert!(!outcomes.is_empty() && outcomes.iter().all(done), "{outcomes:?}");
}

fn of_outcomes(outcomes: Vec<Outcome>) -> End {
    let mut end = End::Done;
    assert!(!outcomes.is_empty(), "files went missing from their batch");
    for outcome in outcomes {
        end = match outcome {
            Outcome::Done(_) => continue,
            Outcome::Skipped(Skip::Cancelled) => End::Cancelled,
            Outcome::Failed(error) => said(&error),
            Outcome::Skipped(skip) => panic!("left alone as {}", skip.word()),
        };
    }
    end
}

fn said(error: &MigrateError) -> End {
    End::Said(error.to_string(), error.next_step().to_owned())
}

fn of_read(read: Result<Vec<u8>, i32>, expected: &[u8]) -> End {
    match read {
        Ok(bytes) => {
            assert!(bytes == expected, "wrong bytes were served");
            End::Done
        }
        Err(errno) => End::Errno(errno),
    }
}

fn of_errno(done: Result<(), i32>) -> End {
    match done {
        Ok(()) => End::Done,
        Err(errno) => End::Errno(errno),
    }
}

/// How long any path may take, whatever the store does.
pub const LIMIT: Duration = Duration::from_secs(120);

//! An engine without a filesystem.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use coldfs::control::engine::{Engine, Peer};
use coldfs::control::wire::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What nobody's terminal should see: it clears the screen and begins a line of its own.
const ODD_WORDS: &str = "\x1b[2J\nall is well";

/// Serves a plain directory as if it were a mount.
pub struct Fake {
    pub mountpoint: PathBuf,
    /// Cancelled once a move has begun.
    pub moving: CancellationToken,
    /// Cancelled once a move saw that it was cancelled.
    pub stopped: CancellationToken,
    pub detached: CancellationToken,
    /// Whether a part of the directory cannot be read.
    pub unreadable: bool,
}

impl Fake {
    fn unread(&self) -> Vec<Failure> {
        let failure = Failure {
            path: self.mountpoint.join("closed").into(),
            cause: "Permission denied".into(),
            next_step: "check its permissions".into(),
        };
        if self.unreadable { vec![failure] } else { vec![] }
    }

    /// One more than is named.
    fn unread_total(&self) -> u64 {
        2 * self.unread().len() as u64
    }

    fn report(&self, path: &Path) -> FileReport {
        FileReport {
            path: path.into(),
            state: FileState::Released,
            flags: HsmFlags::of(FileState::Released, false),
            ino: 12,
            size_bytes: 1 << 20,
            local_bytes: 4_096,
            mtime_ns: 0,
            remote: Some(Remote {
                segment: "01K9ZTEST".into(),
                entry: 3,
                offset: Some(4_096),
                length: Some(1 << 20),
            }),
            pinned: false,
            open_count: 0,
            heat: None,
            notes: vec![ODD_WORDS.into()],
        }
    }
}

#[async_trait]
impl Engine for Fake {
    fn mounts(&self) -> Vec<Mount> {
        vec![Mount {
            tenant: "t1".into(),
            data_dir: "/nowhere/raw".into(),
            mountpoint: self.mountpoint.clone().into(),
        }]
    }

    fn tenants(&self) -> Vec<TenantEntry> {
        vec![TenantEntry {
            name: "t1".into(),
            state: TenantState::Failed,
            since: 1,
            data_dir: "/nowhere/raw".into(),
            mountpoint: self.mountpoint.clone().into(),
            config: Some("/etc/coldfs.toml".into()),
            cause: Some(ODD_WORDS.into()),
            next_step: Some(ODD_WORDS.into()),
            changed: false,
        }]
    }

    async fn tenant(&self, request: TenantRequest) -> Result<TenantEntry, Problem> {
        match request.verb {
            TenantVerb::Attach => Ok(self.tenants().remove(0)),
            TenantVerb::Detach => Err(Problem::new(ProblemKind::Failed, ODD_WORDS, "try again")),
        }
    }

    async fn status(&self, _of: Option<&Path>) -> Result<Status, Problem> {
        Ok(Status {
            version: "0".into(),
            tenants: vec![TenantStatus {
                name: "t1".into(),
                mounted: true,
                data_dir: "/nowhere/raw".into(),
                mountpoint: self.mountpoint.clone().into(),
                store: "disk:/s".into(),
                guest: false,
                verify: "readback".into(),
                probe: "none".into(),
                heat: HeatStatus::default(),
                policy: "none".into(),
                tiering: TieringReport { state: ODD_WORDS.into(), ..TieringReport::default() },
                passthrough: false,
                files: Files::default(),
                bytes: Bytes::default(),
                catalog: CatalogStatus::default(),
                failed: self.unread(),
                failed_total: self.unread_total(),
                notes: vec!["no passthrough: mount as root".into()],
            }],
            counters: Counters { recall_bytes_total: 5, ..Counters::default() },
            dead: Vec::new(),
        })
    }

    async fn state(&self, path: &Path) -> Result<FileReport, Problem> {
        if path.exists() {
            Ok(self.report(path))
        } else {
            Err(Problem::new(
                ProblemKind::Failed,
                "no such file",
                format!("check the name{}", if path.ends_with("gone") { "" } else { ODD_WORDS }),
            ))
        }
    }

    async fn run_move(
        &self,
        peer: Peer,
        request: MoveRequest,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<MoveSummary, Problem> {
        assert_eq!(peer.uid, Peer::myself().uid, "whose command it is");
        assert_ne!(peer.process, 0);
        if request.verb == Verb::Archive {
            return Err(Problem::new(ProblemKind::Store, "the store is full", "make room"));
        }
        if progress.send(Progress { files_total: 2, ..Progress::default() }).await.is_err() {
            return Err(Problem::new(ProblemKind::Failed, "nobody listens", "listen"));
        }
        if request.wait {
            self.moving.cancel();
            cancel.cancelled().await;
            self.stopped.cancel();
        }
        Ok(MoveSummary {
            verb: request.verb,
            files_done: 2,
            files_already: 0,
            skipped_files: Vec::new(),
            bytes_done: 2_048,
            seconds: 0.5,
            cancelled: cancel.is_cancelled(),
            skipped: vec![Skip { reason: "open".into(), files: 1 }],
            failed: match request.verb {
                Verb::Recall => vec![Failure {
                    path: request.paths[0].clone(),
                    cause: "no space".into(),
                    next_step: "make room".into(),
                }],
                _ => vec![],
            },
            failed_total: u64::from(request.verb == Verb::Recall),
        })
    }

    async fn find(
        &self,
        request: FindRequest,
        found: mpsc::Sender<FileReport>,
        _cancel: CancellationToken,
    ) -> Result<FindSummary, Problem> {
        let names = [&b"odd\xff name"[..], b"plain", b"\x1b[2J\nx"].map(OsStr::from_bytes);
        for path in names.map(|name| request.root.as_path().join(name)) {
            if found.send(self.report(&path)).await.is_err() {
                break;
            }
        }
        let (failed, failed_total) = (self.unread(), self.unread_total());
        Ok(FindSummary { examined: 9, matched: 2, failed, failed_total, source: Source::Walk })
    }

    async fn du(&self, request: DuRequest, _: CancellationToken) -> Result<DuReport, Problem> {
        let bytes = Bytes { logical: 1 << 20, local: 4_096, remote: 1 << 20 };
        let files = Files { released: 1, ..Files::default() };
        let (failed, failed_total) = (self.unread(), self.unread_total());
        let source = Source::Walk;
        Ok(DuReport { path: request.path, bytes, files, source, failed, failed_total })
    }

    async fn heat(
        &self,
        request: HeatRequest,
        files: mpsc::Sender<FileWarmth>,
        _cancel: CancellationToken,
    ) -> Result<HeatReport, Problem> {
        let heat = FileHeat {
            score: 2.5,
            accesses: 3,
            last_access: Some(1),
            evidence: "probe".into(),
            known_since: 1,
            watched_since: 1,
            idle_seconds: None,
        };
        let path = WirePath::from(format!("/odd/{ODD_WORDS}"));
        let file = FileWarmth { path: path.clone(), size_bytes: 1 << 20, heat };
        if request.files && files.send(file.clone()).await.is_err() {
            return Err(Problem::new(ProblemKind::Failed, "nobody listens", "listen"));
        }
        let bands = vec![Band { idle_below_seconds: None, files: 1, bytes: 1 << 20 }];
        let total = DirectoryHeat { path, files: 1, bytes: 1 << 20, score: 2.5, bands };
        Ok(HeatReport {
            path: request.path,
            probe: "tp_btf".into(),
            watched_since: 1,
            directories: vec![total.clone()],
            total,
            hottest: vec![file],
            coldest: Vec::new(),
        })
    }

    fn top(&self) -> Vec<TopReport> {
        let (tenant, mountpoint) = ("t1".into(), self.mountpoint.clone().into());
        let applications = Vec::new();
        vec![TopReport { tenant, mountpoint, applications, alarm: None, heat: None }]
    }

    async fn notes(
        &self,
        _: NotesRequest,
        notes: mpsc::Sender<serde_json::Value>,
    ) -> Result<NotesSummary, Problem> {
        notes.send(serde_json::json!({ "time": 1, "what": ODD_WORDS })).await.unwrap();
        Ok(NotesSummary { sent: 1, ..NotesSummary::default() })
    }

    async fn plan(
        &self,
        request: PlanRequest,
        files: mpsc::Sender<Planned>,
    ) -> Result<PlanSummary, Problem> {
        let planned = Planned {
            path: format!("{}/{ODD_WORDS}", request.path),
            action: "archive".into(),
            bytes: 5_000,
            rule: ODD_WORDS.into(),
            idle_seconds: 90_000,
            evidence: "atime".into(),
            held: Some("pinned".into()),
        };
        files.send(planned).await.unwrap();
        let held = [("pinned".to_owned(), 1)].into();
        Ok(PlanSummary { judged: 7, held, ..PlanSummary::default() })
    }

    async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport, Problem> {
        let file = self.report(request.path.as_path());
        Ok(ExplainReport { file, judged: None, why_not: Some(ODD_WORDS.into()) })
    }

    async fn policy(&self, request: PolicyRequest) -> Result<PolicyReport, Problem> {
        if request.reload {
            return Err(Problem::new(ProblemKind::Usage, "rules: no", "write others"));
        }
        Ok(PolicyReport {
            name: "mine".into(),
            version: "1".into(),
            component: None,
            hash: "00".into(),
            settings: Vec::new(),
            rules: vec![ODD_WORDS.into()],
            wants: Vec::new(),
            archive_after_seconds: 86_400,
            release_after_seconds: u32::MAX,
            faults: 0,
            left_out: false,
        })
    }

    fn brake(&self, _: BrakeRequest) -> Result<BrakeReport, Problem> {
        let (tenant, mountpoint) = ("t1".into(), self.mountpoint.clone().into());
        Ok(BrakeReport { tenant, mountpoint, alarm: None, released: false })
    }

    async fn cancel(&self, _: CancelRequest) -> Result<CancelReport, Problem> {
        Ok(CancelReport { moves: 1, recalls: 0 })
    }

    async fn pin(&self, request: PinRequest, _: CancellationToken) -> Result<PinReport, Problem> {
        let changed = u64::try_from(request.paths.len()).unwrap();
        let (failed, failed_total) = (self.unread(), self.unread_total());
        Ok(PinReport { changed, already: 0, failed, failed_total })
    }

    async fn fsck(
        &self,
        request: FsckRequest,
        findings: mpsc::Sender<Finding>,
        _cancel: CancellationToken,
    ) -> Result<FsckReport, Problem> {
        let repaired = request.mode != FsckMode::Check;
        let finding = Finding {
            path: request.path,
            what: "stub without a record".into(),
            verdict: Verdict::Orphan,
            repaired,
            next_step: if repaired { String::new() } else { "coldfs fsck --adopt".into() },
        };
        findings.send(finding).await.unwrap();
        let (repaired, open) = if repaired { (1, 0) } else { (0, 1) };
        let (failed, failed_total) = (self.unread(), self.unread_total());
        let (examined, found, cancelled) = (3, 1, false);
        Ok(FsckReport { examined, found, repaired, open, failed, failed_total, cancelled })
    }

    async fn gc(
        &self,
        request: GcRequest,
        news: mpsc::Sender<GcNews>,
        _cancel: CancellationToken,
    ) -> Result<GcReport, Problem> {
        let segment = GcSegment {
            key: "t1/seg/aa/01K9ZTEST".into(),
            segment: Some("01K9ZTEST".into()),
            size_bytes: 64 << 20,
            entries: Some(3),
            live_entries: Some(0),
            live_bytes: Some(0),
            dead_bytes: Some(64 << 20),
            age_seconds: Some(request.grace_seconds),
            verdict: GcVerdict::Dead,
            why: ODD_WORDS.into(),
        };
        let progress = GcProgress { segments: 1, files: 3, directories: 1 };
        for item in [GcNews::Progress(progress), GcNews::Segment(segment)] {
            news.send(item).await.unwrap();
        }
        let (failed, failed_total) = (self.unread(), self.unread_total());
        let complete = failed.is_empty();
        Ok(GcReport { complete, segments: 1, failed, failed_total, ..GcReport::default() })
    }

    async fn detach(&self) -> Result<(), Problem> {
        self.detached.cancel();
        Ok(())
    }
}

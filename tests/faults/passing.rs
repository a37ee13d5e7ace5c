//! What moves by itself: passes of a policy that says migrate to everything, over a catalog.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use coldfs::catalog::{self, Keeper, Phase};
use coldfs::heat::{Kind, Source};
use coldfs::policy::code::Compiler;
use coldfs::policy::settings::{Settings, Written};
use coldfs::policy::{self, Judge};
use coldfs::temperature::{HalfLife, Second};
use coldfs::tiering::caps::Limits;
use coldfs::tiering::{Options, Parts, PassSummary, Tiering};
use tokio_util::sync::CancellationToken;

use super::world::{Life, until};

/// Within which a file that was busy for a moment goes: another test's child has its descriptors
/// until it has begun, which takes a busy machine its time.
const PATIENCE: Duration = Duration::from_secs(30);

fn policy() -> policy::Options {
    static CODE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let built = "fixtures/guests/built/hostile.wasm";
    policy::Options {
        component: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(built)),
        settings: [("behaviour".to_owned(), Written::Text("migrate-all".to_owned()))].into(),
        // Compiled once for all.
        code_dir: Some(CODE.get_or_init(|| tempfile::tempdir().unwrap()).path().to_owned()),
        compiler: Compiler::Here,
    }
}

/// Passes until `done`, until one did not do what it was to, or until it is cancelled; the last.
pub async fn passes(
    life: &Life,
    catalog: PathBuf,
    cancel: &CancellationToken,
    done: impl Fn() -> bool,
) -> PassSummary {
    let half_life = HalfLife::default();
    let by_handle = coldfs::sys::has_capability(coldfs::sys::CAP_DAC_READ_SEARCH);
    // Seen by a probe, so that what is not used is proven to be idle.
    life.tenant.heat.begin(Source::Probe(Kind::TpBtf), Second(Second::now().0 - 1_000));
    let kept = catalog::Options { path: catalog, by_handle, half_life };
    let keeper = Keeper::start(Arc::clone(&life.tenant), Arc::clone(&life.inodes), kept).unwrap();
    let keeper = Arc::new(keeper);
    until("the catalog is complete", || keeper.report().phase == Phase::Complete).await;
    let options = Options {
        enabled: true,
        interval: Duration::from_millis(50),
        high_percent: 100,
        low_percent: 99,
        quota_bytes: None,
        least_idle: Duration::ZERO,
        least_stay: Duration::ZERO,
        limits: Limits::default(),
        io_pressure_percent: 100,
        half_life,
        policy: policy(),
        overrides: Settings::new(),
    };
    let (tenant, inodes) = (Arc::clone(&life.tenant), Arc::clone(&life.inodes));
    let (migrator, recall) = (Arc::clone(&life.migrator), Arc::clone(&life.recall));
    let parts = Parts { tenant, inodes, migrator, recall, keeper: Arc::clone(&keeper) };
    let judge = Arc::new(Judge::new());
    let tiering = Arc::new(Tiering::new(parts, Arc::clone(&judge), options, true));
    let ends = cancel.child_token();
    let running = tokio::spawn(Arc::clone(&tiering).run(ends.clone()));
    let begun = Instant::now();
    let last = loop {
        let report = tiering.report();
        let last = report.last.unwrap_or_default();
        let failed = last.failed > 0 || last.cut_short.is_some();
        if failed || begun.elapsed() > PATIENCE || done() || cancel.is_cancelled() {
            break last;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    ends.cancel();
    running.await.expect("a pass panicked");
    let end = move || {
        judge.stop();
        keeper.stop();
    };
    tokio::task::spawn_blocking(end).await.unwrap();
    last
}

//! Moves that meet others' needs: a reader beside a long one, a file that moved while nobody
//! served it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::environments::{as_user, can_be_a_user};
use super::harness::pattern;
use super::harness::site::Site;
use super::harness::{can_tier, coldfs, run};

#[test]
fn a_reader_does_not_wait_while_other_files_of_a_release_are_hashed() {
    if !can_tier() {
        return;
    }
    const SMALL: usize = 50_000;
    const LARGE: usize = 300 << 20;
    let site = Site::new();
    std::fs::write(site.data.join("a-small"), pattern::bytes(1, SMALL)).unwrap();
    std::fs::write(site.data.join("b-large"), pattern::bytes(2, LARGE)).unwrap();
    let mount = site.mount();
    mount.all("archive", &site.mnt);
    mount.detach();
    // A daemon that has not seen the archive has to hash both.
    let mount = site.mount();
    let over = AtomicBool::new(false);
    let mut longest = Duration::ZERO;
    let begun = Instant::now();
    let took = std::thread::scope(|scope| {
        let release = scope.spawn(|| {
            let output = run(coldfs()
                .args(["release", "-r"])
                .arg(&site.mnt)
                .env("COLDFS_RUNTIME_DIR", &site.runtime)
                .env("COLDFS_STATE_DIR", &site.runtime));
            over.store(true, Ordering::SeqCst);
            assert!(output.status.success(), "{output:?}");
            begun.elapsed()
        });
        while !over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
            let asked = Instant::now();
            let bytes = std::fs::read(site.mnt.join("a-small")).unwrap();
            longest = longest.max(asked.elapsed());
            assert!(bytes == pattern::bytes(1, SMALL));
        }
        release.join().unwrap()
    });
    assert_eq!(mount.state(&site.mnt.join("b-large")), "released");
    assert!(longest < took / 2, "a reader waited {longest:?} of the {took:?} of a release");
    mount.detach();
}

#[test]
fn a_recall_that_died_without_rights_is_found_at_the_next_start_wherever_the_file_is() {
    if !can_tier() || !can_be_a_user() {
        return;
    }
    let site = Site::new();
    let said = as_user(
        &site,
        r#"
        end() {
            pid=$(basename "$COLDFS_RUNTIME_DIR"/*.sock .sock)
            fusermount3 -u "$MNT"
            ended "$pid"
        }
        begin() { "$COLDFS" mount "$DATA" "$MNT" --store "disk:$STORE" 2>/dev/null; }
        trap 'fusermount3 -uz "$MNT" 2>/dev/null || true' EXIT
        mkdir "$DATA/dir"; seq 600000 > "$DATA/large"; sha256sum < "$DATA/large" > "$COLDFS_RUNTIME_DIR/sum"
        begin; timeout 60 "$COLDFS" migrate -r --wait "$MNT" >/dev/null; end
        stat -c %s "$DATA/large"
        export COLDFS_CRASH_AT=recall-after-extend
        begin; unset COLDFS_CRASH_AT
        timeout 60 "$COLDFS" recall "$MNT/large" >/dev/null 2>&1 || true
        fusermount3 -uz "$MNT"; rm -f "$COLDFS_RUNTIME_DIR"/*.sock
        test $(stat -c %s "$DATA/large") -gt 4096 && echo in flight
        mv "$DATA/large" "$DATA/dir/moved"
        begin
        stat -c %s "$DATA/dir/moved"
        sha256sum < "$MNT/dir/moved" | diff "$COLDFS_RUNTIME_DIR/sum" - && echo same
        end
        "#,
    );
    assert_eq!(said, "4096\nin flight\n4096\nsame\n");
}

//! Commands that walk: beside clients that do not listen, in a directory that cannot be read, and
//! while the daemon ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::environments::{as_user, can_be_a_user};
use super::harness::mount::is_mounted;
use super::harness::pattern;
use super::harness::server::Server;
use super::harness::site::Site;
use super::harness::{can_tier, coldfs, control, raw, wait_for};

/// More than the daemon has threads for the disk.
const SLOW_CLIENTS: usize = 40;
/// What a `find` says of so many files of such names fits in no buffer on the way.
const FILES: usize = 4_000;
const NAME_BYTES: usize = 200;
const BYTES: usize = 50_000;

#[test]
fn clients_that_do_not_read_keep_nobody_from_the_daemon() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let many = site.data.join("many");
    std::fs::create_dir(&many).unwrap();
    for number in 0..FILES {
        std::fs::write(many.join(format!("{number:0>NAME_BYTES$}")), "").unwrap();
    }
    std::fs::write(site.data.join("file"), pattern::bytes(1, BYTES)).unwrap();
    let mut mount = site.mount();
    let request = serde_json::json!({
        "root": site.mnt.to_str().unwrap(),
        "states": [], "larger_bytes": null, "older_seconds": null, "name": null,
    })
    .to_string();
    let mut clients = Vec::new();
    for _ in 0..SLOW_CLIENTS {
        let mut client = UnixStream::connect(mount.socket()).unwrap();
        let head = format!(
            "POST /v1/find HTTP/1.1\r\nHost: coldfs\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{request}",
            request.len()
        );
        client.write_all(head.as_bytes()).unwrap();
        clients.push(client);
    }
    let walks = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
        let names = tasks.filter_map(|task| std::fs::read(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name == b"walk\n").count()
    };
    let all = wait_for(Duration::from_secs(60), || (walks() == SLOW_CLIENTS).then_some(()));
    assert!(all.is_some(), "{} walk", walks());
    mount.all("migrate", &site.mnt.join("file"));
    assert_eq!(mount.status()["tenants"][0]["files"]["released"], 1);
    assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, BYTES));
    // A walk ends with its client.
    clients.truncate(SLOW_CLIENTS / 2);
    let half = wait_for(Duration::from_secs(60), || (walks() == clients.len()).then_some(()));
    assert!(half.is_some(), "{} still walk for {} clients", walks(), clients.len());
    raw::signal(mount.pid(), libc::SIGTERM);
    mount.wait_ended();
    assert!(!is_mounted(&site.mnt));
    drop(clients);
}

#[test]
fn more_moves_than_threads_for_the_disk_all_end() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    // More than fits between a walk and its move: each walk waits.
    for number in 0..3 * coldfs::migrate::BATCH_FILES {
        std::fs::write(site.data.join(number.to_string()), "").unwrap();
    }
    let mount = site.mount();
    let socket = mount.socket();
    std::thread::scope(|scope| {
        let move_all = || control::run_move(&socket, "archive", &site.mnt, true);
        let moves: Vec<_> = (0..SLOW_CLIENTS).map(|_| scope.spawn(move_all)).collect();
        for moved in moves {
            let answer = moved.join().unwrap().expect("the daemon lives");
            assert!(answer.contains(r#""cancelled":false"#), "{answer}");
            mount.beat();
        }
    });
    mount.detach();
}

#[test]
fn a_detach_that_waits_answers_status_and_a_second_signal_ends_it() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mut mount = site.mount();
    std::fs::write(site.mnt.join("file"), pattern::bytes(1, BYTES)).unwrap();
    let reader = std::fs::File::open(site.mnt.join("file")).unwrap();
    raw::signal(mount.pid(), libc::SIGTERM);
    let told = wait_for(Duration::from_secs(4), || {
        let output = mount.coldfs(["status"]);
        String::from_utf8_lossy(&output.stdout).contains("it is being detached").then_some(())
    });
    assert!(told.is_some(), "status says nothing of the detach");
    raw::signal(mount.pid(), libc::SIGTERM);
    let status = mount.end_status();
    assert_eq!(status.code(), Some(1));
    let log = mount.log_tail();
    let said = format!(
        "SIGTERM again: ended at once; no move was under way; {mnt} is left without a daemon: \
         fusermount3 -uz {mnt}",
        mnt = site.mnt.display()
    );
    assert!(log.contains(&said), "{log}");
    drop(reader);
}

#[test]
fn a_directory_that_cannot_be_read_is_named_by_every_command_that_walks() {
    if !can_tier() || !can_be_a_user() {
        return;
    }
    let site = Site::new();
    let said = as_user(
        &site,
        r#"
        mkdir "$DATA/open" "$DATA/closed"; seq 20000 > "$DATA/open/file"; chmod 0 "$DATA/closed"
        "$COLDFS" mount "$DATA" "$MNT" --store "disk:$STORE" 2>/dev/null
        trap 'fusermount3 -uz "$MNT" || true; chmod 755 "$DATA/closed"' EXIT
        OUT="$COLDFS_RUNTIME_DIR/out"
        for verb in status find du fsck "unpin -r" "archive -r --wait"; do
            code=0
            timeout 60 "$COLDFS" $verb "$MNT" >"$OUT" 2>&1 || code=$?
            echo "$verb: $code $(grep -c "^$MNT/closed: Permission denied" "$OUT")"
        done
        "#,
    );
    assert_eq!(
        said,
        "status: 1 1\nfind: 1 1\ndu: 1 1\nfsck: 1 1\nunpin -r: 1 1\narchive -r --wait: 1 1\n"
    );
}

#[test]
fn a_file_with_two_names_is_moved_once_and_what_is_skipped_is_named() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    std::fs::write(site.data.join("one"), pattern::bytes(1, BYTES)).unwrap();
    std::fs::hard_link(site.data.join("one"), site.data.join("two")).unwrap();
    std::fs::write(site.data.join("tiny"), "a few bytes").unwrap();
    let mount = site.mount();
    let move_all = |more: &[&str]| {
        let args = ["migrate", "-r", "--wait"].iter().chain(more).map(std::ffi::OsStr::new);
        String::from_utf8(mount.coldfs(args.chain([site.mnt.as_os_str()])).stdout).unwrap()
    };
    let said = move_all(&["-v"]);
    let tiny = format!("skipped: {}: too-small\n", site.mnt.join("tiny").display());
    assert!(said.starts_with(&tiny), "{said}");
    assert!(said.contains("migrated 1 file,") && said.contains("1 already"), "{said}");
    assert!(said.ends_with("skipped 1: 1 too-small\n"), "{said}");
    let summary: serde_json::Value = serde_json::from_str(&move_all(&["--json"])).unwrap();
    assert_eq!(summary["skipped_files"][0]["reason"], "too-small", "{summary}");
    mount.detach();
}

#[test]
fn a_drained_directory_has_no_pins_and_its_proof_counts_files() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    std::fs::create_dir(site.data.join("dir")).unwrap();
    for name in ["file", "dir/pinned"] {
        std::fs::write(site.data.join(name), pattern::bytes(1, BYTES)).unwrap();
    }
    std::os::unix::fs::symlink("file", site.data.join("link")).unwrap();
    let mount = site.mount();
    for name in ["dir", "dir/pinned"] {
        mount.coldfs(["pin".as_ref(), site.mnt.join(name).as_os_str()]);
    }
    mount.all("archive", &site.mnt);
    let drain = |more: &[&str]| {
        let args = ["drain"].iter().chain(more).map(std::ffi::OsStr::new);
        mount.coldfs(args.chain([site.mnt.as_os_str()]))
    };
    assert!(drain(&[]).status.success());
    let proof = drain(&["--prove"]);
    assert!(proof.status.success());
    let said = String::from_utf8(proof.stdout).unwrap();
    assert!(said.starts_with("2 files: plain"), "{said}");
    mount.detach();
    for name in ["dir", "dir/pinned", "file"] {
        for attribute in [&b"trusted.coldfs"[..], b"trusted.coldfs.pin"] {
            let left = raw::get_xattr(&site.data.join(name), attribute).unwrap();
            assert!(left.is_none(), "{name}: {left:?}");
        }
    }
}

#[test]
fn a_time_that_no_record_holds_reads_as_young_and_can_be_set_on_a_cold_file() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    for name in ["far", "cold"] {
        std::fs::write(site.data.join(name), pattern::bytes(1, BYTES)).unwrap();
    }
    super::harness::sh(&site.data, "touch -d 2300-01-01T00:00:00Z far");
    let mount = site.mount();
    let find = |more: &[&str]| {
        let args = ["find"].iter().chain(more).map(std::ffi::OsStr::new);
        String::from_utf8(mount.coldfs(args.chain([site.mnt.as_os_str()])).stdout).unwrap()
    };
    for walk in [&[][..], &["--walk"]] {
        assert_eq!(find(&[&["--older", "10d"], walk].concat()), "");
        let line = find(&[&["--json", "--name", "far"], walk].concat());
        assert!(line.contains(&format!("\"mtime_ns\":{}", i64::MAX)), "{line}");
    }
    mount.all("migrate", &site.mnt.join("cold"));
    let cold = site.mnt.join("cold");
    assert_eq!(mount.state(&cold), "released");
    let year = super::harness::sh(&site.mnt, "touch -d 2300-01-01T00:00:00Z cold; stat -c %y cold");
    assert!(year.starts_with("2300-01-01"), "{year}");
    assert_eq!(mount.state(&cold), "resident");
    assert!(std::fs::read(&cold).unwrap() == pattern::bytes(1, BYTES));
    mount.detach();
}

#[test]
fn a_runtime_directory_below_the_mountpoint_is_refused() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let below = site.data.join("run");
    std::fs::create_dir(&below).unwrap();
    raw::chmod(&below, 0o700);
    let output = super::harness::run(
        super::harness::coldfs()
            .arg("mount")
            .args([&site.data, &site.data])
            .args(["--foreground", "--store", &site.store_url])
            .env("COLDFS_RUNTIME_DIR", &below)
            .env("COLDFS_STATE_DIR", &site.runtime),
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("below the mountpoint") && said.contains("COLDFS_RUNTIME_DIR"), "{said}");
    assert!(!is_mounted(&site.data));
}

/// `coldfs VERB -r --wait` of a directory, begun.
fn begin(site: &Site, verb: &str, dir: &Path, stderr: impl Into<Stdio>) -> Child {
    let mut command: Command = coldfs();
    command.args([verb, "-r", "--wait"]).arg(dir);
    command.env("COLDFS_RUNTIME_DIR", &site.runtime).env("COLDFS_STATE_DIR", &site.runtime);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    command.spawn().unwrap()
}

/// What was written on a terminal.
struct Screen {
    told: std::sync::mpsc::Receiver<String>,
    seen: String,
}

impl Screen {
    /// Whether all of these have been seen.
    fn shows(&mut self, parts: &[&str]) -> bool {
        self.seen.extend(self.told.try_iter());
        parts.iter().all(|part| self.seen.contains(part))
    }
}

/// The same before somebody's eyes.
fn begin_on_a_terminal(site: &Site, verb: &str, dir: &Path) -> (Child, Screen) {
    let (mut screen, line) = raw::terminal().unwrap();
    let child = begin(site, verb, dir, line);
    let (tell, told) = std::sync::mpsc::channel();
    // Ends with the child, the last that can write on it.
    std::thread::spawn(move || {
        let mut part = [0; 4_096];
        while let Ok(length @ 1..) = screen.read(&mut part) {
            tell.send(String::from_utf8_lossy(&part[..length]).into_owned()).ok();
        }
    });
    (child, Screen { told, seen: String::new() })
}

/// Directories of files, and a store that says nothing from now on.
fn stalled(dirs: &[&str]) -> (Site, Server, super::harness::mount::Mount) {
    let site = Site::new();
    for (number, dir) in dirs.iter().enumerate() {
        std::fs::create_dir_all(site.data.join(dir)).unwrap();
        let bytes = pattern::bytes(number as u64, BYTES);
        std::fs::write(site.data.join(dir).join("file"), bytes).unwrap();
    }
    let server = Server::start(&site.store);
    let mount = site.start(&server.mount_options());
    server.freeze();
    (site, server, mount)
}

#[test]
fn a_move_shows_progress_to_whoever_watches_and_is_silent_in_a_pipe() {
    if !can_tier() {
        return;
    }
    let (site, server, mount) = stalled(&["piped", "watched"]);
    let mut piped = begin(&site, "migrate", &site.mnt.join("piped"), Stdio::piped());
    let (watched, mut screen) = begin_on_a_terminal(&site, "migrate", &site.mnt.join("watched"));
    let shown =
        wait_for(Duration::from_secs(60), || screen.shows(&["migrate", "0/1 files"]).then_some(()));
    assert!(shown.is_some(), "nobody is shown how far it is: {:?}", screen.seen);
    assert!(piped.try_wait().unwrap().is_none(), "it had time to say something");
    server.thaw();
    for (who, child) in [("piped", piped), ("watched", watched)] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{who}: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with("migrated 1 file, ") && said.lines().count() == 1, "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{who}");
    }
    mount.detach();
}

#[test]
fn a_long_move_says_on_the_way_how_far_it_is() {
    if !can_tier() {
        return;
    }
    // A segment holds two of them.
    const LARGE: usize = 40 << 20;
    let (site, server, mount) = stalled(&[]);
    for number in 0..8 {
        let file = site.data.join(number.to_string());
        std::fs::write(file, pattern::bytes(number, LARGE)).unwrap();
    }
    server.thaw();
    let (watched, mut screen) = begin_on_a_terminal(&site, "archive", &site.mnt);
    let shown = wait_for(Duration::from_secs(60), || {
        ["2/8 files", "4/8 files"].iter().any(|part| screen.shows(&[part])).then_some(())
    });
    server.freeze();
    assert!(shown.is_some(), "not before the end: {:?}", screen.seen);
    let still = mount.coldfs(["cancel".as_ref(), "--json".as_ref(), site.mnt.as_os_str()]);
    server.thaw();
    let still: serde_json::Value = serde_json::from_slice(&still.stdout).unwrap();
    assert_eq!(still["moves"], 1, "it was over already");
    assert_eq!(watched.wait_with_output().unwrap().status.code(), Some(1));
    mount.all("archive", &site.mnt);
    mount.detach();
}

#[test]
fn a_recall_tells_of_each_file_as_it_comes() {
    if !can_tier() {
        return;
    }
    let (site, server, mount) = stalled(&["here", "away"]);
    server.thaw();
    mount.all("archive", &site.mnt);
    mount.all("release", &site.mnt.join("away"));
    mount.detach();
    // Nothing of it is in the memory of a new daemon.
    let mount = site.start(&server.mount_options());
    server.freeze();
    let (mut watched, mut screen) = begin_on_a_terminal(&site, "recall", &site.mnt);
    let shown = wait_for(Duration::from_secs(60), || screen.shows(&["1/2 files"]).then_some(()));
    let is_over = watched.try_wait().unwrap().is_some();
    server.thaw();
    assert!(shown.is_some() && !is_over, "{:?}", screen.seen);
    assert!(watched.wait().unwrap().success());
    assert_eq!(mount.state(&site.mnt.join("away/file")), "archived");
    mount.detach();
}

#[test]
fn a_cancel_stops_the_moves_that_have_to_do_with_a_path_and_no_others() {
    if !can_tier() {
        return;
    }
    let (site, server, mount) = stalled(&["a/sub", "b"]);
    let cancel = |path: &str| {
        let path = site.mnt.join(path);
        let args = ["cancel".as_ref(), "--json".as_ref(), path.as_os_str()];
        let report: serde_json::Value = serde_json::from_slice(&mount.coldfs(args).stdout).unwrap();
        report["moves"].as_u64().unwrap()
    };
    // Of a directory: one below it, and one above it that has it to do as well.
    for (moved, named) in [("a/sub", "a"), ("a", "a/sub"), ("a", "a/sub/file")] {
        let mut other = begin(&site, "archive", &site.mnt.join("b"), Stdio::piped());
        let stopped = begin(&site, "migrate", &site.mnt.join(moved), Stdio::piped());
        let found = wait_for(Duration::from_secs(60), || (cancel(named) == 1).then_some(()));
        assert!(found.is_some(), "{named}: nothing to stop");
        let output = stopped.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("cancelled before the end"), "{said}");
        assert!(other.try_wait().unwrap().is_none(), "{named}: the other was stopped too");
        let found = wait_for(Duration::from_secs(60), || (cancel("b") == 1).then_some(()));
        assert!(found.is_some(), "the other");
        assert_eq!(other.wait().unwrap().code(), Some(1));
        assert_eq!(cancel(""), 0, "none is left");
    }
    for dir in ["a/sub", "b"] {
        assert_eq!(mount.state(&site.mnt.join(dir).join("file")), "resident", "{dir}");
    }
    server.thaw();
    mount.all("migrate", &site.mnt);
    for (number, dir) in ["a/sub", "b"].into_iter().enumerate() {
        let file = site.mnt.join(dir).join("file");
        assert_eq!(mount.state(&file), "released");
        assert!(std::fs::read(file).unwrap() == pattern::bytes(number as u64, BYTES));
    }
    mount.detach();
}

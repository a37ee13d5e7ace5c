//! Commands that walk: beside clients that do not listen, in a directory that cannot be read, and
//! while the daemon ends.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::environments::{as_user, can_be_a_user};
use super::harness::mount::is_mounted;
use super::harness::pattern;
use super::harness::site::Site;
use super::harness::{can_tier, control, raw, wait_for};

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
    let all = wait_for(Duration::from_secs(20), || (walks() == SLOW_CLIENTS).then_some(()));
    assert!(all.is_some(), "{} walk", walks());
    mount.all("migrate", &site.mnt.join("file"));
    assert_eq!(mount.status()["tenants"][0]["files"]["released"], 1);
    assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, BYTES));
    // A walk ends with its client.
    clients.truncate(SLOW_CLIENTS / 2);
    let half = wait_for(Duration::from_secs(20), || (walks() == clients.len()).then_some(()));
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

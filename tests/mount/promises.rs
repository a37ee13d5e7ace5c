//! P1 to P8 of SEMANTICS.md, as far as they can be seen from outside, one test each. P7 is
//! tests/crash.rs.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::harness::facts::{Depth, Strict, Tree};
use super::harness::mount::Start;
use super::harness::pattern::{self, Looks, STUB_BYTES, looks};
use super::harness::server::Server;
use super::harness::site::Site;
use super::harness::zoo::{BIG, Zoo};
use super::harness::{can_tier, copy_program, env_number, must, raw, run, sh, wait_for};

/// How long a call that needs no store may take, on a busy machine.
const LOCAL: Duration = Duration::from_secs(20);

fn site_with_zoo() -> (Site, Zoo) {
    let site = Site::new();
    let zoo = Zoo::build(&site.data);
    (site, zoo)
}

/// Whether the raw body of a file is a stub.
fn is_stub(site: &Site, name: &str) -> bool {
    looks(&std::fs::read(site.data.join(name)).unwrap()) == Looks::Stub
}

/// Files that are worth migrating: everything of more than a block.
fn released_names(site: &Site, zoo: &Zoo) -> Vec<PathBuf> {
    zoo.versions.keys().filter(|path| is_stub(site, path.to_str().unwrap())).cloned().collect()
}

#[test]
fn p1_a_released_file_differs_from_a_resident_one_in_latency_only() {
    if !can_tier() {
        return;
    }
    let (site, zoo) = site_with_zoo();
    must(Command::new("sync").arg("-f").arg(&site.data));
    let raw_before = Tree::of(&site.data, Depth::Layout).unwrap();
    let mount = site.mount();
    let resident = Tree::of(&site.mnt, Depth::Content).unwrap();
    let shown: Vec<String> = raw_before
        .differences(&resident, Strict::SameFile)
        .into_iter()
        .filter(|line| !line.starts_with(".: "))
        .collect();
    assert!(shown.is_empty(), "mounting changed what is seen:\n  {}", shown.join("\n  "));

    mount.all("archive", &site.mnt);
    let archived = Tree::of(&site.mnt, Depth::Layout).unwrap();
    resident.assert_equal(&archived, Strict::SameFile, "archiving");
    mount.all("migrate", &site.mnt);
    let released = released_names(&site, &zoo);
    assert!(released.len() >= 15, "migrated only {released:?}");
    for path in &released {
        assert_eq!(std::fs::metadata(site.data.join(path)).unwrap().len(), STUB_BYTES);
        assert_eq!(mount.state(&site.mnt.join(path)), "released", "{path:?}");
    }
    let stats = Tree::of(&site.mnt, Depth::Stat).unwrap();
    resident.assert_equal(&stats, Strict::SameFile, "releasing");
    let listing = raw::list_xattr(&site.mnt.join("attributes")).unwrap();
    assert!(!listing.iter().any(|name| name.windows(6).any(|part| part == b"coldfs")));

    mount.detach();
    let mount = site.mount();
    let stats = Tree::of(&site.mnt, Depth::Stat).unwrap();
    resident.assert_equal(&stats, Strict::SameFile, "detaching and mounting");
    let layout = Tree::of(&site.mnt, Depth::Layout).unwrap();
    resident.assert_equal(&layout, Strict::SameFile, "lseek of released files");
    let content = Tree::of(&site.mnt, Depth::Content).unwrap();
    resident.assert_equal(&content, Strict::SameFile, "reading released files");
    mount.all("recall", &site.mnt);
    assert_eq!(released_names(&site, &zoo), Vec::<PathBuf>::new());
    let recalled = Tree::of(&site.mnt, Depth::Content).unwrap();
    resident.assert_equal(&recalled, Strict::SameFile, "recalling");
    mount.detach();
}

#[test]
fn p2_local_bytes_stay_when_the_store_has_no_room_for_them() {
    if !can_tier() {
        return;
    }
    let (site, zoo) = site_with_zoo();
    let site = site.with_disk_store();
    must(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&site.store));
    let store = Unmount(site.store.clone());
    let mount = site.mount();
    let output = mount.coldfs(["migrate".as_ref(), "-r".as_ref(), site.mnt.as_os_str()]);
    assert!(!output.status.success(), "migrating into a full store says it is done");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!message.trim().is_empty(), "a failure without a word");
    assert!(!is_stub(&site, BIG), "3 MiB were released into a store of 1 MiB");
    assert_eq!(zoo.wrong_content(&site.mnt), Vec::<String>::new());
    mount.detach();
    assert_eq!(zoo.wrong_raw(&site.data), Vec::<String>::new());
    drop(store);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn p3_whoever_has_a_file_open_or_mapped_wins_over_its_release() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    let bytes = pattern::bytes(9, 300_000);
    let make = |name: &str| {
        std::fs::write(site.mnt.join(name), &bytes).unwrap();
        raw::set_mtime(&site.mnt.join(name), 1_600_000_000_000_000_000).unwrap();
    };
    let mapping = |path: &Path, writable: bool| {
        let flags = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let file = raw::open(path, flags, 0).unwrap();
        raw::Mapping::new(&file, bytes.len(), writable).unwrap()
    };
    let mut holders: Vec<(&str, Box<dyn std::any::Any>)> = Vec::new();
    for name in ["read", "write", "map", "map-write", "raw-read", "raw-map", "raw-link"] {
        make(name);
        mount.all("archive", &site.mnt.join(name));
        let (through, below) = (site.mnt.join(name), site.data.join(name));
        let holder: Box<dyn std::any::Any> = match name {
            "read" => Box::new(raw::open(&through, libc::O_RDONLY, 0).unwrap()),
            "write" => Box::new(raw::open(&through, libc::O_RDWR, 0).unwrap()),
            "map" => Box::new(mapping(&through, false)),
            "map-write" => Box::new(mapping(&through, true)),
            "raw-read" => Box::new(raw::open(&below, libc::O_RDONLY, 0).unwrap()),
            "raw-map" => Box::new(mapping(&below, false)),
            _ => {
                let link = site.data.join("other-name");
                std::fs::hard_link(&below, &link).unwrap();
                Box::new(raw::open(&link, libc::O_RDONLY, 0).unwrap())
            }
        };
        holders.push((name, holder));
    }
    copy_program("/bin/sleep", &site.mnt.join("program"));
    let mut program = Command::new(site.mnt.join("program")).arg("600").spawn().unwrap();
    for verb in ["release", "migrate"] {
        mount.coldfs([verb.as_ref(), "-r".as_ref(), site.mnt.as_os_str()]);
        for (name, _) in &holders {
            assert!(!is_stub(&site, name), "{verb} released {name}, which was held");
            assert_eq!(std::fs::read(site.mnt.join(name)).unwrap(), bytes);
        }
        assert!(!is_stub(&site, "program"), "{verb} released a running program");
    }
    assert!(program.try_wait().unwrap().is_none());
    program.kill().unwrap();
    program.wait().unwrap();
    let names: Vec<&str> = holders.iter().map(|(name, _)| *name).collect();
    drop(holders);
    mount.all("migrate", &site.mnt);
    for name in names {
        assert!(is_stub(&site, name), "{name} is not held any more");
        assert_eq!(std::fs::read(site.mnt.join(name)).unwrap(), bytes);
    }
    mount.detach();
}

#[test]
fn p3_a_file_that_is_open_for_writing_is_skipped_by_name_and_waited_for_if_asked() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let (through, below) = (site.mnt.join("file"), site.data.join("file"));
    std::fs::write(&below, pattern::bytes(9, 300_000)).unwrap();
    let mount = site.mount();
    let skipped = |verb: &str| {
        let output = mount.coldfs(["--json".as_ref(), verb.as_ref(), through.as_os_str()]);
        assert!(output.status.success(), "{verb}: {output:?}");
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let file = &summary["skipped_files"][0];
        assert_eq!(file["path"], through.to_str().unwrap(), "{verb}: {summary}");
        file["reason"].as_str().unwrap().to_owned()
    };
    for path in [&through, &below] {
        let writer = raw::open(path, libc::O_WRONLY, 0).unwrap();
        for verb in ["archive", "migrate"] {
            assert_eq!(skipped(verb), "open", "{verb} beside a writer of {}", path.display());
        }
        assert_eq!(mount.state(&through), "resident");
        drop(writer);
    }
    for path in [&through, &below] {
        mount.all("archive", &through);
        let writer = raw::open(path, libc::O_WRONLY, 0).unwrap();
        for verb in ["release", "migrate"] {
            assert_eq!(skipped(verb), "open", "{verb} beside a writer of {}", path.display());
        }
        assert!(!is_stub(&site, "file"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| mount.all("migrate", &through));
            // It tries once a second.
            std::thread::sleep(Duration::from_millis(1_500));
            assert!(!waiting.is_finished() && !is_stub(&site, "file"));
            drop(writer);
            waiting.join().unwrap();
        });
        assert!(is_stub(&site, "file"));
        assert!(std::fs::read(&through).unwrap() == pattern::bytes(9, 300_000));
        mount.comes_home(&through);
    }
    mount.detach();
}

#[test]
fn p3_pages_that_a_pipe_holds_keep_their_bytes() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    let path = site.mnt.join("file");
    let bytes = pattern::bytes(10, 300_000);
    std::fs::write(&path, &bytes).unwrap();
    mount.all("archive", &path);
    let file = raw::open(&path, libc::O_RDONLY, 0).unwrap();
    let head = raw::HeldPages::splice(&file, 0, 4_096).unwrap();
    let tail = raw::HeldPages::splice(&file, 204_800, 32_768).unwrap();
    drop(file);
    for _ in 0..5 {
        mount.coldfs(["migrate".as_ref(), path.as_os_str()]);
    }
    assert_eq!(head.read().unwrap(), bytes[..4_096]);
    assert_eq!(tail.read().unwrap(), bytes[204_800..237_568]);
    mount.all("migrate", &path);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    mount.detach();
}

#[test]
fn p4_looking_at_released_files_never_touches_the_store() {
    if !can_tier() {
        return;
    }
    let (site, mut zoo) = site_with_zoo();
    let site = site.with_disk_store();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    let mount = site.mount();
    let requests = mount.requests(None);
    let away = site.dir.path().join("store-away");
    std::fs::rename(&site.store, &away).unwrap();

    let begun = Instant::now();
    Tree::of(&site.mnt, Depth::Stat).unwrap();
    sh(&site.mnt, "find . -newer tiny >/dev/null; du -s . >/dev/null; ls -lR >/dev/null");
    let big = raw::open(&site.mnt.join(BIG), libc::O_RDONLY, 0);
    let maps = big.and_then(|file| raw::data_map(&file)).unwrap();
    assert_eq!(maps, [(0, (3 << 20) + 77)]);
    let at = |name: &str| site.mnt.join(name);
    raw::chmod(&at("small/01"), 0o600);
    raw::chown(&at("small/01"), 77, 78).unwrap();
    raw::set_mtime(&at("small/02"), 1_234_567_890_000_000_000).unwrap();
    raw::set_xattr(&at("small/02"), b"user.late", b"yes", 0).unwrap();
    std::fs::rename(at("small/03"), at("dir/moved")).unwrap();
    std::fs::hard_link(at("small/04"), at("dir/linked")).unwrap();
    std::fs::remove_file(at("small/05")).unwrap();
    std::fs::rename(at("small/06"), at("small/07")).unwrap();
    raw::open(&at("small/08"), libc::O_WRONLY | libc::O_TRUNC, 0).unwrap();
    nix::unistd::truncate(&at("small/09"), 0).unwrap();
    assert!(begun.elapsed() < LOCAL, "slow without a store: {:?}", begun.elapsed());
    assert_eq!(mount.requests(None), requests, "requests were made");

    std::fs::rename(&away, &site.store).unwrap();
    for (old, new) in
        [("small/03", Some("dir/moved")), ("small/05", None), ("small/06", Some("small/07"))]
    {
        let versions = zoo.versions.remove(Path::new(old)).unwrap();
        if let Some(new) = new {
            zoo.versions.insert(new.into(), versions);
        }
    }
    zoo.only("small/08", vec![]);
    zoo.only("small/09", vec![]);
    zoo.only("dir/linked", zoo.latest("small/04"));
    let meta = std::fs::metadata(at("small/01")).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()), (0o600, 77, 78));
    assert_eq!(std::fs::metadata(at("small/02")).unwrap().mtime(), 1_234_567_890);
    assert_eq!(zoo.wrong_content(&site.mnt), Vec::<String>::new());
    let late = raw::get_xattr(&at("small/02"), b"user.late").unwrap();
    assert_eq!(late.as_deref(), Some(&b"yes"[..]));
    mount.detach();
    assert_eq!(zoo.wrong_raw(&site.data), Vec::<String>::new());
}

#[test]
fn p5_a_small_read_of_a_large_file_fetches_about_a_chunk() {
    if !can_tier() {
        return;
    }
    // COLDFS_LARGE_MIB=10240 is the sentence of the promise.
    let mib = env_number("COLDFS_LARGE_MIB", 96);
    let site = Site::new();
    let part = pattern::bytes(5, 1 << 20);
    let mut file = std::fs::File::create(site.data.join("large")).unwrap();
    for _ in 0..mib {
        std::io::Write::write_all(&mut file, &part).unwrap();
    }
    drop(file);
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    assert!(is_stub(&site, "large"));
    let mount = site.mount();
    for (megabyte, limit_gets) in [(mib / 2, 2), (mib - 1, 3)] {
        let (bytes, gets) = (mount.counter("recall_bytes_total"), mount.requests(Some("get")));
        let file = raw::open(&site.mnt.join("large"), libc::O_RDONLY, 0).unwrap();
        let mut page = [0; 4_096];
        file.read_exact_at(&mut page, (megabyte << 20) + 40_960).unwrap();
        assert_eq!(page[..], part[40_960..45_056]);
        let fetched = mount.counter("recall_bytes_total") - bytes;
        assert!((4_096..=2 << 20).contains(&fetched), "4 KiB cost {fetched} bytes");
        let gets = mount.requests(Some("get")) - gets;
        assert!(gets <= limit_gets, "4 KiB cost {gets} GETs");
    }
    assert!(is_stub(&site, "large"), "a small read recalled the whole file");
    mount.detach();
}

#[test]
fn p6_a_detached_directory_shows_pointers_and_never_plausible_bytes() {
    if !can_tier() {
        return;
    }
    let (site, zoo) = site_with_zoo();
    copy_program("/bin/true", &site.data.join("program"));
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    assert_eq!(zoo.wrong_raw(&site.data), Vec::<String>::new());
    let body = std::fs::read_to_string(site.data.join(BIG)).expect("a stub is text");
    assert_eq!(body.len() as u64, STUB_BYTES);
    assert_eq!(body.lines().nth(1), Some("exit 1"));
    assert!(body.contains("coldfs"), "{body}");
    for shell in ["sh", "bash"] {
        let output = run(Command::new(shell).arg(site.data.join(BIG)));
        assert!(!output.status.success(), "{shell} runs a stub");
        assert!(output.stdout.is_empty());
    }
    let output = run(&mut Command::new(site.data.join("program")));
    assert!(!output.status.success(), "a released program seems to run while detached");
    // Killed with nothing in flight is the same.
    let mount = site.mount();
    mount.kill();
    assert_eq!(zoo.wrong_raw(&site.data), Vec::<String>::new());
    let mount = site.mount();
    assert_eq!(zoo.wrong_content(&site.mnt), Vec::<String>::new());
    must(&mut Command::new(site.mnt.join("program")));
    mount.detach();
}

#[test]
fn p8_a_store_that_is_gone_leaves_resident_files_alone() {
    if !can_tier() {
        return;
    }
    let (site, mut zoo) = site_with_zoo();
    let server = Server::start(&site.store);
    let config = site.dir.path().join("config.toml");
    std::fs::write(&config, "[recall]\ndeadline = \"3s\"\n").unwrap();
    let mut start = server.mount_options();
    start.args = vec!["--config".into(), config.to_str().unwrap().into()];
    let mount = site.start(&start);
    mount.all("migrate", &site.mnt);
    mount.all("recall", &site.mnt.join("small"));
    mount.detach();
    let mount = site.start(&start);
    server.freeze();

    // Resident files: at once, all of them, reads and writes.
    let begun = Instant::now();
    for index in 0..12 {
        let name = format!("small/{index:02}");
        assert_eq!(std::fs::read(site.mnt.join(&name)).unwrap(), zoo.latest(&name));
    }
    std::fs::write(site.mnt.join("small/00"), b"new bytes").unwrap();
    zoo.only("small/00", b"new bytes".to_vec());
    std::fs::write(site.mnt.join("new file"), b"new").unwrap();
    assert!(begun.elapsed() < LOCAL, "resident files waited: {:?}", begun.elapsed());

    // A wait can be killed.
    let mut cat = Command::new("cat")
        .arg(site.mnt.join("sparse"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(cat.try_wait().unwrap().is_none(), "cat had nothing to wait for");
    cat.kill().unwrap();
    let ended = wait_for(Duration::from_secs(2), || cat.try_wait().unwrap());
    assert!(ended.is_some(), "a killed reader still waits");

    // A cold read fails at its deadline, with the errno that says so.
    let begun = Instant::now();
    let error = std::fs::read(site.mnt.join("text")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    let waited = begun.elapsed();
    assert!(waited > Duration::from_secs(2) && waited < Duration::from_secs(15), "{waited:?}");

    // And nobody is lost: the store comes back, and so do the bytes.
    server.thaw();
    let back = wait_for(Duration::from_secs(30), || std::fs::read(site.mnt.join("text")).ok());
    assert_eq!(back, Some(zoo.latest("text")));
    assert_eq!(zoo.wrong_content(&site.mnt), Vec::<String>::new());
    mount.detach();
}

#[test]
fn p8_a_program_whose_bytes_cannot_come_is_not_begun() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    copy_program("/bin/true", &site.data.join("program"));
    let server = Server::start(&site.store);
    let config = site.dir.path().join("config.toml");
    std::fs::write(&config, "[recall]\ndeadline = \"2s\"\n").unwrap();
    let start = Start {
        args: vec!["--config".into(), config.to_str().unwrap().into()],
        ..server.mount_options()
    };
    let mount = site.start(&start);
    mount.all("migrate", &site.mnt);
    server.freeze();
    let error = Command::new(site.mnt.join("program")).spawn().unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ETIMEDOUT | libc::EIO)), "exec says {error}");
    server.thaw();
    let ran = wait_for(Duration::from_secs(30), || {
        run(&mut Command::new(site.mnt.join("program"))).status.success().then_some(())
    });
    assert!(ran.is_some(), "the program runs once its bytes are there");
    mount.detach();
}

#[test]
fn a_missing_object_is_an_error_and_never_zeros() {
    if !can_tier() {
        return;
    }
    let (site, zoo) = site_with_zoo();
    let site = site.with_disk_store();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    // Every segment is emptied: whatever is read of it is wrong.
    let damaged = sh(
        &site.store,
        "find . -type f -path '*/seg/*' -print -exec sh -c 'printf x | dd of=\"$1\" bs=1 seek=5000 \
         conv=notrunc status=none; truncate -s -1 \"$1\"' _ {} \\;",
    );
    assert!(!damaged.trim().is_empty(), "no segment found in the store");
    let mount = site.mount();
    let released = released_names(&site, &zoo);
    assert!(!released.is_empty());
    for path in released {
        match std::fs::read(site.mnt.join(&path)) {
            Ok(bytes) => assert_eq!(bytes, zoo.latest(path.to_str().unwrap()), "{path:?}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{path:?}: {error}"),
        }
    }
    mount.detach();
    assert_eq!(zoo.wrong_raw(&site.data), Vec::<String>::new());
}

#[test]
fn a_mount_over_the_directory_itself_shows_it_and_gives_it_back() {
    if !can_tier() {
        return;
    }
    let (site, zoo) = site_with_zoo();
    let site = site.over_itself();
    let before = Tree::of(&site.data, Depth::Content).unwrap();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    let lines: Vec<String> = before
        .differences(&Tree::of(&site.mnt, Depth::Content).unwrap(), Strict::SameFile)
        .into_iter()
        .filter(|line| !line.starts_with(".: "))
        .collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    mount.all("migrate", &site.mnt);
    mount.detach();
    assert!(!released_names(&site, &zoo).is_empty(), "the raw directory is back");
    assert!(site.data.join(".coldfs").is_dir());
}

#[test]
fn the_private_directory_is_invisible_and_its_name_refused() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    assert!(site.data.join(".coldfs").is_dir());
    let names: Vec<_> = std::fs::read_dir(&site.mnt).unwrap().map(|e| e.unwrap()).collect();
    assert!(names.is_empty(), "{names:?}");
    let private = site.mnt.join(".coldfs");
    assert_eq!(raw_error(std::fs::create_dir(&private)), Some(libc::EPERM));
    assert_eq!(raw_error(std::fs::write(&private, "x")), Some(libc::EPERM));
    std::fs::write(site.mnt.join("x"), "x").unwrap();
    assert_eq!(raw_error(std::fs::rename(site.mnt.join("x"), &private)), Some(libc::EPERM));
    assert!(std::fs::metadata(&private).is_err());
    std::fs::create_dir(site.mnt.join("d")).unwrap();
    std::fs::write(site.mnt.join("d/.coldfs"), "elsewhere the name is free").unwrap();
    mount.detach();
}

fn raw_error(result: std::io::Result<()>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn one_fetch_serves_any_number_of_readers() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let bytes = pattern::bytes(77, 8 << 20);
    std::fs::write(site.data.join("file"), &bytes).unwrap();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    let mount = site.mount();
    let path = site.mnt.join("file");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert!(std::fs::read(&path).unwrap() == bytes));
        }
    });
    let fetched = mount.counter("recall_bytes_total");
    assert!(fetched <= (8 << 20) * 5 / 4, "16 readers of 8 MiB fetched {fetched} bytes");
    mount.detach();
}

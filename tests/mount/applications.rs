//! Real applications on a mount whose files are being migrated underneath: the same result
//! as on the plain directory.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::harness::facts::{Depth, Strict, Tree};
use super::harness::mount::{Mount, Start};
use super::harness::site::Site;
use super::harness::{Subject, can_mount, can_tier, has, must, on_path, run, skip, wait_for};

/// Runs `script` in the mount, a loop migrating everything meanwhile, and in the plain
/// directory; what it prints must be equal. In both forms of a mount: over the directory
/// itself, the kernel keeps names and attributes for long.
fn same(script: &str) {
    for over_itself in [false, true] {
        if over_itself && !Subject::from_env().is_coldfs() {
            continue;
        }
        let mut site = Site::new();
        if over_itself {
            site = site.over_itself();
        }
        let mount = site.start(&Start { quiet_ms: 20, ..Start::default() });
        // On the plain directory a pause waits for nothing: `/` is there.
        let expected = output(&site.plain, script, Path::new("/"));
        let seen = while_migrating(&site, &mount, |moved| output(&site.mnt, script, moved));
        assert_eq!(seen, expected, "mounted over itself: {over_itself}");
        mount.detach();
    }
}

/// For scripts: waits so many seconds, and until something was moved. An engine may be slow.
const PAUSE: &str = r#"
    pause() {
        sleep "$1"
        for _ in $(seq 300); do if [ -e "$MOVED" ]; then return; fi; sleep 0.1; done
    }
"#;

fn output(dir: &Path, script: &str, moved: &Path) -> String {
    let text = must(
        Command::new("bash")
            .arg("-euc")
            .arg(format!("set -o pipefail; export TZ=UTC LC_ALL=C\n{PAUSE}\n{script}"))
            .current_dir(dir)
            .env("MOVED", moved)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "a")
            .env("GIT_AUTHOR_EMAIL", "a@b")
            .env("GIT_COMMITTER_NAME", "a")
            .env("GIT_COMMITTER_EMAIL", "a@b")
            .env("GIT_AUTHOR_DATE", "2020-01-01T00:00:00Z")
            .env("GIT_COMMITTER_DATE", "2020-01-01T00:00:00Z"),
    );
    text.replace(dir.to_str().unwrap(), "DIR")
}

/// Does `work` while everything is migrated again and again; it is given the path of a file that is
/// there once something was moved.
fn while_migrating<T>(site: &Site, mount: &Mount, work: impl FnOnce(&Path) -> T) -> T {
    let tiers = Subject::from_env().is_coldfs();
    let moved = site.dir.path().join("moved");
    let over = AtomicBool::new(false);
    // Dropped when `work` panics as well, or the scope would wait for ever.
    struct Over<'flag>(&'flag AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                mount.quick("migrate", &site.mnt, true);
                if !moved.exists() && (!tiers || mount.counter("migrate_files_total") > 0) {
                    std::fs::write(&moved, "").unwrap();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _over = Over(&over);
        let result = work(&moved);
        if tiers {
            assert!(mount.counter("migrate_files_total") > 0, "nothing was moved: no test");
        }
        result
    })
}

#[test]
fn git_clones_commits_packs_and_checks() {
    if !can_mount() || !has("git") {
        return;
    }
    let script = r"
        git init -q -b main repo && cd repo
        for i in $(seq 60); do mkdir -p d$((i % 7)); seq $((i * 300)) > d$((i % 7))/f$i; done
        git add . && git commit -qm one
        for i in $(seq 0 6); do echo changed >> d$i/f$((i + 7)); git commit -qam change$i; done
        cd .. && pause 0.2 && git clone -q --no-hardlinks repo clone && cd clone
        git status --porcelain; git log --oneline; git gc -q; git fsck --full 2>&1
        git checkout -q HEAD~4; git checkout -q main; git status --porcelain; git diff --stat HEAD~7
        git ls-files -s | sha256sum; git rev-parse HEAD
    ";
    same(script);
}

#[test]
fn tar_and_cp_keep_holes_and_bytes() {
    if !can_mount() {
        return;
    }
    let script = r"
        mkdir src; cd src
        for i in $(seq 40); do seq $((i * 500)) > f$i; done
        truncate -s 5M sparse; seq 9999 | dd of=sparse bs=4096 seek=300 conv=notrunc status=none
        ln f1 hard; ln -s f2 soft; mkfifo pipe; cd ..
        touch -d 2001-02-03 src/* 2>/dev/null
        pause 0.3
        tar -cSf all.tar src; mkdir out; tar -xSf all.tar -C out
        cp -a --sparse=always src copied; cp -r --reflink=auto src/f40 plain
        pause 0.3
        diff -r --exclude=pipe src out/src; diff -r --exclude=pipe src copied
        cmp src/f40 plain; tar -dSf all.tar
        (cd src; find . -type f | sort | xargs sha256sum)
        tar -tvf all.tar | awk '{print $1,$3,$6}' | sort
    ";
    same(script);
}

#[test]
fn rsync_copies_both_ways() {
    if !can_mount() || !has("rsync") {
        return;
    }
    let site = Site::new();
    let elsewhere = site.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let zoo = super::harness::zoo::Zoo::build(&elsewhere);
    let mount = site.start(&Start { quiet_ms: 20, ..Start::default() });
    let rsync = |from: &Path, to: &Path, extra: &[&str]| {
        must(
            Command::new("rsync")
                .args(["-aHAX", "--numeric-ids", "--modify-window=-1"])
                .args(extra)
                .arg(format!("{}/", from.display()))
                .arg(format!("{}/", to.display())),
        )
    };
    let back = site.dir.path().join("back");
    std::fs::create_dir(&back).unwrap();
    while_migrating(&site, &mount, |moved| {
        rsync(&elsewhere, &site.mnt, &[]);
        // Or the way back may be over before anything was moved.
        let moved = wait_for(Duration::from_secs(30), || moved.exists().then_some(()));
        moved.expect("files are moved underneath");
        rsync(&site.mnt, &back, &["--sparse"]);
    });
    mount.all("migrate", &site.mnt);
    let difference = rsync(&elsewhere, &site.mnt, &["-c", "--dry-run", "-i"]);
    assert_eq!(difference, "", "rsync -aHAXc sees differences");
    assert_eq!(zoo.wrong_content(&back), Vec::<String>::new());
    let ours = Tree::of(&back, Depth::Content).unwrap();
    let theirs = Tree::of(&elsewhere, Depth::Content).unwrap();
    ours.assert_equal(&theirs, Strict::CopiedTree, "there and back");
    mount.detach();
}

#[test]
fn sqlite_keeps_its_database_in_wal_mode() {
    if !can_mount() || !has("sqlite3") {
        return;
    }
    let script = r#"
        sqlite3 db "PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, v TEXT);"
        for round in $(seq 12); do
            sqlite3 db "PRAGMA busy_timeout=20000; BEGIN IMMEDIATE;
              WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<400)
              INSERT INTO t(v) SELECT printf('%d-%d-%s', $round, x, hex(zeroblob(40))) FROM c; COMMIT;" >/dev/null
            sqlite3 db "UPDATE t SET v = v || '+' WHERE i % 7 = $((round % 7));"
            pause 0.05
        done
        sqlite3 db "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA integrity_check; SELECT count(*), sum(length(v)) FROM t; VACUUM;"
        pause 0.2
        sqlite3 db "PRAGMA integrity_check; SELECT sum(i * length(v)) FROM t;"
    "#;
    same(script);
}

#[test]
fn sqlite_serves_writers_at_one_time() {
    if !can_mount() || !has("sqlite3") {
        return;
    }
    let script = r#"
        sqlite3 db "PRAGMA journal_mode=WAL; CREATE TABLE t(w, n, pad);" >/dev/null
        # Who comes while the last one closes is told that it is locked, whatever its patience.
        insert() {
            for try in $(seq 50); do
                if sqlite3 -cmd ".timeout 60000" db "INSERT INTO t VALUES($1, $2, hex(zeroblob(500)));" 2>"err.$1"
                then return; fi
                grep -qE 'database is locked|locking protocol' "err.$1" || break
                sleep 0.1
            done
            echo "writer $1, row $2: $(cat "err.$1")"
        }
        work() { for n in $(seq 10); do insert "$1" "$n"; done; }
        # Between two rounds it is closed for long enough to be moved.
        for round in $(seq 4); do work 1 & work 2 & work 3 & wait; pause 0.4; done
        sqlite3 db "PRAGMA integrity_check; SELECT w, count(*), sum(n) FROM t GROUP BY w ORDER BY w;"
    "#;
    same(script);
}

#[test]
fn cargo_builds_and_runs_a_crate() {
    if !can_mount() || !has("cargo") {
        return;
    }
    let script = r#"
        mkdir -p app/src dep/src
        printf '[package]\nname="app"\nversion="0.1.0"\nedition="2021"\n[dependencies]\ndep={path="../dep"}\n' > app/Cargo.toml
        printf '[package]\nname="dep"\nversion="0.1.0"\nedition="2021"\n' > dep/Cargo.toml
        echo 'pub fn answer() -> u32 { 42 }' > dep/src/lib.rs
        echo 'fn main() { println!("{}", dep::answer()); }' > app/src/main.rs
        cd app
        unset CARGO_TARGET_DIR RUSTC_WRAPPER RUSTFLAGS
        cargo build -q --offline && ./target/debug/app
        pause 0.3
        cargo build -q --offline && ./target/debug/app
        echo 'pub fn answer() -> u32 { 43 }' > ../dep/src/lib.rs
        cargo build -q --offline && ./target/debug/app
        cargo build -q --release --offline && ./target/release/app
    "#;
    same(script);
}

#[test]
fn cargo_builds_a_crate_with_its_vendored_sources_all_of_them_cold() {
    if !can_tier() || !has("cargo") {
        return;
    }
    let site = Site::new();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/crate/.");
    must(Command::new("cp").args(["-r", fixture]).arg(&site.data));
    let mount = site.mount();
    let vendored = site.mnt.join("vendor/primes/src/lib.rs");
    let program = site.mnt.join("target/debug/fixture");
    let build = || {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--offline", "--locked", "-v", "--color=never"]);
        for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER", "RUSTFLAGS"] {
            cargo.env_remove(name);
        }
        let output = run(cargo.current_dir(&site.mnt));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    mount.all("migrate", &site.mnt);
    assert_eq!(mount.state(&vendored), "released");
    let said = build();
    assert!(said.contains("Compiling primes"), "{said}");
    // Cold again, and what was built too: nothing looks new to cargo, and the program runs.
    mount.all("migrate", &site.mnt);
    assert_eq!([&vendored, &program].map(|path| mount.state(path)), ["released"; 2]);
    let said = build();
    assert!(said.contains("Fresh primes") && said.contains("Fresh fixture"), "{said}");
    assert!(!said.contains("Compiling"), "{said}");
    assert_eq!(must(&mut Command::new(&program)), "1500 primes, 8796637, Some(9973)\n");
    mount.detach();
}

#[test]
fn python_makes_and_uses_a_venv() {
    if !can_mount() || !has("python3") {
        return;
    }
    let script = r#"
        python3 -m venv --without-pip env
        for i in $(seq 30); do seq 400 | sed 's/^/x = /' > m$i.py; done
        pause 0.2
        env/bin/python -c 'import sys, json; print(sys.prefix != sys.base_prefix, json.dumps([1]))'
        env/bin/python -m compileall -q . && echo compiled
        pause 0.2
        for i in 1 9 30; do env/bin/python -c "import m$i; print(m$i.x)"; done
    "#;
    same(script);
}

#[test]
fn grep_less_vim_and_file_read_what_is_there() {
    if !can_mount() {
        return;
    }
    let mut script = String::from(
        r"
        mkdir d; for i in $(seq 50); do seq $((i * 211)) > d/f$i; done; pause 0.2
        grep -rc 10001 d | sort; grep -rl --include='f4*' 9999 d | sort
        sort -n d/f50 | tail -1; wc -c d/* | tail -1; head -c 100 d/f49 | md5sum; tail -c 10 d/f48
        gzip -kn d/f50 && gzip -t d/f50.gz && gzip -dc d/f50.gz | md5sum
        sed -i s/10/ten/ d/f47; md5sum d/f47
        split -b 5000 d/f46 d/part; cat d/part* | cmp - d/f46
        ",
    );
    if has("less") {
        script.push_str("\nless d/f45 | md5sum");
    }
    // vim-tiny is called vi, and has the ex mode too.
    if let Some(vim) = ["vim", "vi"].into_iter().find(|name| on_path(name)) {
        script.push_str(&format!(
            "\n{vim} -Nu NONE -n -es -c '%s/7$/seven/' -c wq d/f44 </dev/null; md5sum d/f44; grep -c seven d/f44"
        ));
    } else {
        skip("needs vim");
    }
    if has("file") {
        script.push_str("\nfile d/f43");
    }
    same(&script);
}

#[test]
fn the_tree_is_equal_after_shell_work() {
    if !can_mount() {
        return;
    }
    let script = r"
        umask 022
        for i in $(seq 80); do mkdir -p a/b$((i % 5)); seq $((i * 137)) > a/b$((i % 5))/f$i; done
        find a -name 'f1*' | sort | xargs chmod 600; mv a/b1 moved; ln moved/f11 a/link
        ln -s ../moved a/sym; cp -r a/b2 copied; rm -r a/b3; truncate -s 3000 copied/f2
        pause 0.1
        : > copied/f7; cat a/b4/* > joined; dd if=/dev/zero of=joined bs=1 seek=77 count=9 conv=notrunc status=none
        find . -type f | sort | xargs touch -d 2010-11-12
    ";
    // Copies and writes of other sizes lay out alike; times of directories do not.
    let site = Site::new();
    let mount = site.start(&Start { quiet_ms: 20, ..Start::default() });
    output(&site.plain, script, Path::new("/"));
    while_migrating(&site, &mount, |moved| output(&site.mnt, script, moved));
    mount.all("migrate", &site.mnt);
    run(Command::new("sync").arg("-f").arg(&site.plain));
    let ours = Tree::of(&site.mnt, Depth::Content).unwrap();
    let theirs = Tree::of(&site.plain, Depth::Content).unwrap();
    let lines = ours.differences(&theirs, Strict::OtherTree);
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    mount.detach();
}

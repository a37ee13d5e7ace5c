//! What happens to a tree while coldfs is not there: edits, copies, deletions of stubs. Local
//! bytes that nobody can account for are kept (I10), and nothing plausible is ever read.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::harness::mount::Start;
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::{can_tier, must, raw, run};

const BYTES: usize = 200_000;
/// More than is recalled in open().
const LARGE: usize = 3_000_000;

/// Runs `edit` on the detached directory that holds one released file, `file`, and hands
/// what the mount then says of it to `check`: its bytes, or an errno.
fn after(edit: impl FnOnce(&Site, &Path), check: impl FnOnce(&Site, Result<Vec<u8>, i32>)) {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    std::fs::write(site.data.join("file"), pattern::bytes(1, BYTES)).unwrap();
    std::fs::write(site.data.join("other"), pattern::bytes(2, BYTES)).unwrap();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    let stub = site.data.join("file");
    assert_eq!(looks(&std::fs::read(&stub).unwrap()), Looks::Stub);
    edit(&site, &stub);
    let mount = site.mount();
    let seen = std::fs::read(site.mnt.join("file"))
        .map_err(|error| error.raw_os_error().expect("an errno"));
    check(&site, seen);
    let other = std::fs::read(site.mnt.join("other")).unwrap();
    assert!(other == pattern::bytes(2, BYTES), "another file suffered");
    mount.detach();
}

fn append(path: &Path, bytes: &[u8]) {
    raw::open(path, libc::O_WRONLY | libc::O_APPEND, 0).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_stub_that_was_appended_to_is_an_error_and_keeps_its_bytes() {
    after(
        |_, stub| append(stub, b"a line"),
        |site, seen| {
            assert_eq!(seen, Err(libc::EIO));
            let body = std::fs::read(site.data.join("file")).unwrap();
            assert_eq!(looks(&body), Looks::Stub);
            assert!(body.ends_with(b"a line"), "the appended bytes are kept");
        },
    );
}

#[test]
fn a_stub_that_was_written_over_reads_as_what_was_written() {
    after(
        |_, stub| std::fs::write(stub, b"somebody's new file").unwrap(),
        |_, seen| assert_eq!(seen.as_deref(), Ok(&b"somebody's new file"[..])),
    );
}

#[test]
fn a_stub_that_was_emptied_is_an_empty_file() {
    after(
        |_, stub| std::fs::write(stub, b"").unwrap(),
        |_, seen| assert_eq!(seen.as_deref(), Ok(&b""[..])),
    );
}

#[test]
fn a_stub_whose_text_was_edited_is_an_error() {
    after(
        |_, stub| {
            let mut body = std::fs::read(stub).unwrap();
            let at = body.windows(4).position(|part| part == b"size").unwrap_or(100);
            body[at] ^= 1;
            let file = raw::open(stub, libc::O_WRONLY, 0).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &body, 0).unwrap();
        },
        |_, seen| assert_eq!(seen, Err(libc::EIO)),
    );
}

#[test]
fn a_stub_that_lost_its_record_is_an_error_until_it_is_adopted() {
    after(
        |_, stub| {
            let body = std::fs::read(stub).unwrap();
            std::fs::remove_file(stub).unwrap();
            std::fs::write(stub, body).unwrap();
        },
        |site, seen| {
            assert_eq!(seen, Err(libc::EIO));
            let output = must(
                super::harness::coldfs()
                    .args(["fsck", "--adopt"])
                    .arg(&site.mnt)
                    .env("COLDFS_RUNTIME_DIR", &site.runtime)
                    .env("COLDFS_STATE_DIR", &site.runtime),
            );
            drop(output);
            let read = std::fs::read(site.mnt.join("file")).unwrap();
            assert!(read == pattern::bytes(1, BYTES), "adopted, and other bytes");
        },
    );
}

#[test]
fn what_the_kernel_knew_of_an_orphan_is_forgotten_when_it_is_adopted() {
    if !can_tier() {
        return;
    }
    // Over itself: names and attributes are the kernel's for a day. Large: not recalled in open().
    let site = Site::new().over_itself();
    let bytes = pattern::bytes(1, LARGE);
    for name in ["read", "append", "secret"] {
        std::fs::write(site.data.join(name), &bytes).unwrap();
    }
    raw::chmod(&site.data.join("secret"), 0o600);
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    for name in ["read", "append", "secret"] {
        let stub = std::fs::read(site.data.join(name)).unwrap();
        std::fs::remove_file(site.data.join(name)).unwrap();
        std::fs::write(site.data.join(name), stub).unwrap();
        raw::chmod(&site.data.join(name), 0o666);
    }
    site.open_way();
    let start = Start { args: vec!["-o".into(), "allow_other".into()], ..Start::default() };
    let mount = site.start(&start);
    let size = |name: &str| std::fs::metadata(site.mnt.join(name)).unwrap().len();
    assert_eq!((size("read"), size("append")), (4096, 4096));
    assert_eq!(size("secret"), 4096);
    let adopted = mount.coldfs(["fsck".as_ref(), "--adopt".as_ref(), site.mnt.as_os_str()]);
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stdout));
    append(&site.mnt.join("append"), b"a line");
    assert!(std::fs::read(site.mnt.join("append")).unwrap() == [&bytes[..], b"a line"].concat());
    assert!(std::fs::read(site.mnt.join("read")).unwrap() == bytes);
    let mut stranger = Command::new("head");
    stranger.args(["-c", "4"]).arg(site.mnt.join("secret")).uid(1_234).gid(1_234);
    assert!(!run(&mut stranger).status.success(), "the archived file was its owner's alone");
    mount.detach();
}

#[test]
fn a_stub_copied_with_its_record_is_not_believed() {
    after(
        |site, stub| {
            must(Command::new("cp").arg("-a").arg(stub).arg(site.data.join("copy")));
        },
        |site, seen| {
            assert!(seen.unwrap() == pattern::bytes(1, BYTES));
            let error = std::fs::read(site.mnt.join("copy")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        },
    );
}

#[test]
fn a_stub_written_over_another_is_an_error_and_not_the_other_file() {
    after(
        |site, stub| {
            let other = std::fs::read(site.data.join("other")).unwrap();
            std::fs::write(stub, other).unwrap();
        },
        |_, seen| assert_eq!(seen, Err(libc::EIO)),
    );
}

#[test]
fn a_stub_that_was_deleted_is_gone_and_a_new_file_is_its_own() {
    after(
        |_, stub| {
            std::fs::remove_file(stub).unwrap();
            std::fs::write(stub, pattern::bytes(9, 10_000)).unwrap();
        },
        |_, seen| assert!(seen.unwrap() == pattern::bytes(9, 10_000)),
    );
}

#[test]
fn a_stub_that_was_renamed_or_linked_while_detached_still_reads() {
    after(
        |site, stub| {
            std::fs::hard_link(stub, site.data.join("linked")).unwrap();
            std::fs::rename(stub, site.data.join("renamed")).unwrap();
            std::fs::create_dir(site.data.join("d")).unwrap();
            std::fs::rename(site.data.join("renamed"), site.data.join("d/file")).unwrap();
        },
        |site, seen| {
            assert_eq!(seen, Err(libc::ENOENT));
            for name in ["linked", "d/file"] {
                assert!(std::fs::read(site.mnt.join(name)).unwrap() == pattern::bytes(1, BYTES));
            }
        },
    );
}

//! An engine that lies or fails under a running mount: what is here stays as it is, what is cold
//! fails with a reason and is right again when the engine is.

use std::path::Path;
use std::time::Duration;

use super::harness::liar::{Liar, Lie, Op, Rule};
use super::harness::mount::{Mount, Start};
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::{can_tier, wait_for};

const BYTES: usize = 200_000;
const SEGMENTS: &str = "prefix/data/seg/";

/// One cold file, one that is archived, one that is neither; a short deadline, and no memory of
/// what was read.
fn mounted(liar: &Liar, start: Start) -> (Site, Mount) {
    patient(liar, start, "3s")
}

/// The same with a deadline of one's own.
fn patient(liar: &Liar, start: Start, deadline: &str) -> (Site, Mount) {
    let site = Site::new();
    for (index, name) in ["cold", "warm", "new"].into_iter().enumerate() {
        std::fs::write(site.data.join(name), pattern::bytes(index as u64, BYTES)).unwrap();
    }
    let config = site.dir.path().join("coldfs.toml");
    let text = format!("[recall]\ndeadline = '{deadline}'\n[cache]\nchunks = 0\n");
    std::fs::write(&config, text).unwrap();
    let mut start = start;
    start.args.extend(["--config".into(), config.to_str().unwrap().into()]);
    let mount = site.start(&start);
    mount.all("archive", &site.mnt.join("cold"));
    mount.all("archive", &site.mnt.join("warm"));
    mount.all("release", &site.mnt.join("cold"));
    liar.take_seen();
    (site, mount)
}

fn reads(path: &Path, index: u64) -> Result<(), i32> {
    let bytes = std::fs::read(path).map_err(|error| error.raw_os_error().unwrap())?;
    assert!(bytes == pattern::bytes(index, BYTES), "{} reads wrong", path.display());
    Ok(())
}

/// What a command that must fail says.
fn fails(mount: &Mount, verb: &str, path: &Path) -> String {
    let output = mount.coldfs([verb.as_ref(), path.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_reader_of_a_file_that_comes_home_in_bulk_waits_for_its_own_request_only() {
    if !can_tier() {
        return;
    }
    let liar = Liar::start();
    let (site, mount) = patient(&liar, liar.mount_options(), "60s");
    let cold = site.mnt.join("cold");
    let long = Duration::from_secs(60);
    liar.script(Rule::new(Lie::Delays(long)).on(Op::Get).below(SEGMENTS).times(1));
    std::thread::scope(|scope| {
        scope.spawn(|| mount.coldfs(["recall".as_ref(), cold.as_os_str()]));
        let asked = || liar.take_seen().iter().any(|asked| asked.op == Op::Get).then_some(());
        assert!(wait_for(Duration::from_secs(60), asked).is_some(), "the recall asks");
        let begun = std::time::Instant::now();
        reads(&cold, 0).unwrap();
        assert!(begun.elapsed() < long / 3, "{:?}", begun.elapsed());
        mount.coldfs(["cancel".as_ref(), cold.as_os_str()]);
    });
    mount.detach();
}

#[test]
fn a_cold_file_fails_with_a_reason_and_is_right_when_the_engine_is() {
    if !can_tier() {
        return;
    }
    let liar = Liar::start();
    let (site, mount) = mounted(&liar, liar.mount_options());
    let (cold, warm) = (site.mnt.join("cold"), site.mnt.join("warm"));
    let segments: Vec<String> =
        liar.keys().into_iter().filter(|key| key.starts_with(SEGMENTS)).collect();
    assert_eq!(segments.len(), 2);
    let region = ("x-amz-bucket-region", "eu-west-9");
    for (lie, errno, words) in [
        (Lie::ErrorIn200("InternalError"), libc::ETIMEDOUT, ["InternalError", "doctor"]),
        (Lie::Half, libc::ETIMEDOUT, ["does not answer", "doctor"]),
        (Lie::Resets, libc::ETIMEDOUT, ["does not answer", "doctor"]),
        (Lie::answers(404, "NoSuchKey"), libc::EIO, ["no such object", "versions"]),
        (Lie::answers(403, "InvalidObjectState"), libc::EIO, ["offline", "restore it"]),
        (Lie::answers(403, "AccessDenied"), libc::EIO, ["AccessDenied", "let these"]),
        (Lie::answers(400, "ExpiredToken"), libc::EIO, ["ExpiredToken", "renew the"]),
        (Lie::answers(403, "RequestTimeTooSkewed"), libc::EIO, ["Skewed", "clock"]),
        (
            Lie::answers_with(301, "PermanentRedirect", region),
            libc::EIO,
            ["eu-west-9", "AWS_REGION"],
        ),
        (Lie::Swaps(segments[1].clone()), libc::EIO, ["other bytes", "backup"]),
        (Lie::Truncates(10), libc::EIO, ["10 bytes", "backup"]),
    ] {
        let name = format!("{lie:?}");
        // Which of the two holds the cold file nobody says: the other way round swaps as well.
        match &lie {
            Lie::Swaps(_) => {
                for (one, other) in [(0, 1), (1, 0)] {
                    let swaps = Lie::Swaps(segments[other].clone());
                    liar.script(Rule::new(swaps).on(Op::Get).below(&segments[one]));
                }
            }
            _ => liar.script(Rule::new(lie).on(Op::Get).below(SEGMENTS)),
        }
        let text = fails(&mount, "recall", &cold);
        says(&text, &["cold", "data/seg/"]);
        says(&text, &words);
        assert_eq!(reads(&cold, 0), Err(errno), "{name}");
        assert_eq!(reads(&warm, 1), Ok(()), "{name}");
        assert_eq!(looks(&std::fs::read(site.data.join("cold")).unwrap()), Looks::Stub, "{name}");
        liar.heal();
        let right = wait_for(Duration::from_secs(60), || reads(&cold, 0).ok());
        assert!(right.is_some(), "{name}: {:?}", reads(&cold, 0));
        mount.all("release", &cold);
    }
    mount.detach();
}

#[test]
fn what_is_not_stored_as_it_was_sent_is_never_released() {
    if !can_tier() {
        return;
    }
    for (verify, word) in [("readback", "bytes"), ("checksum", "checksum")] {
        let liar = Liar::start();
        let (site, mount) = mounted(&liar, liar.mount_options());
        assert_eq!(mount.status()["tenants"][0]["verify"], "checksum", "by the probe");
        mount.detach();
        let config = site.dir.path().join("coldfs.toml");
        std::fs::write(&config, format!("[s3]\nverify = '{verify}'\n")).unwrap();
        let args = vec!["--config".into(), config.to_str().unwrap().into()];
        let mount = site.start(&Start { args, ..liar.mount_options() });
        let new = site.mnt.join("new");
        for lie in [Lie::FlipsStored, Lie::TellsWrongChecksum] {
            let op = if matches!(lie, Lie::FlipsStored) { Op::Put } else { Op::Head };
            if op == Op::Head && verify == "readback" {
                continue;
            }
            liar.script(Rule::new(lie).on(op).below(SEGMENTS));
            let text = fails(&mount, "archive", &new);
            says(&text, &["new", "data/seg/", "does not hold what was sent", word, "doctor"]);
            liar.heal();
            assert_eq!(mount.state(&new), "resident");
        }
        liar.take_seen();
        mount.all("archive", &new);
        let seen = liar.take_seen();
        let gets = seen.iter().filter(|asked| asked.op == Op::Get);
        let gets = gets.filter(|asked| asked.key.starts_with(SEGMENTS)).count();
        assert_eq!(gets == 0, verify == "checksum", "{gets} GETs");
        mount.all("release", &new);
        assert_eq!(reads(&new, 2), Ok(()));
        mount.detach();
    }
}

#[test]
fn every_body_is_sent_with_a_checksum_of_it() {
    if !can_tier() {
        return;
    }
    let liar = Liar::start();
    let site = Site::new();
    std::fs::write(site.data.join("small"), pattern::bytes(1, BYTES)).unwrap();
    // Larger than a segment for small files: it is put in parts.
    std::fs::write(site.data.join("large"), vec![3; 80 << 20]).unwrap();
    let mount = site.start(&liar.mount_options());
    mount.all("migrate", &site.mnt);
    mount.detach();
    let sums = ["x-amz-checksum-crc32", "x-amz-checksum-sha256"];
    let mut parts = 0;
    for asked in liar.take_seen() {
        parts += u32::from(asked.op == Op::Part);
        if matches!(asked.op, Op::Put | Op::Part) {
            let is_summed = sums.iter().any(|name| asked.headers.contains_key(*name));
            assert!(is_summed, "{asked:?}");
        }
    }
    assert!(parts > 1, "{parts} parts");
}

#[test]
fn an_engine_that_takes_any_checksum_is_read_back() {
    if !can_tier() {
        return;
    }
    let liar = Liar::start();
    liar.script(Rule::new(Lie::TakesAnyChecksum).on(Op::Put));
    let (site, mount) = mounted(&liar, liar.mount_options());
    assert_eq!(mount.status()["tenants"][0]["verify"], "readback");
    mount.all("migrate", &site.mnt.join("new"));
    assert_eq!(reads(&site.mnt.join("new"), 2), Ok(()));
    mount.detach();
    let left = liar.keys().into_iter().filter(|key| key.contains("coldfs-doctor")).count();
    assert_eq!(left, 0, "the probe leaves nothing");
}

#[test]
fn an_engine_that_asks_for_less_gets_less_and_everything_is_done() {
    if !can_tier() {
        return;
    }
    let liar = Liar::start();
    let (site, mount) = mounted(&liar, liar.mount_options());
    let slow = || Rule::new(Lie::answers(503, "SlowDown"));
    liar.script(slow().on(Op::Put).times(3));
    liar.script(slow().on(Op::Get).times(2));
    let rest = Lie::answers_with(429, "TooManyRequests", ("retry-after", "1"));
    liar.script(Rule::new(rest).on(Op::Get).times(1));
    let throttled = mount.counter("s3_throttled_total");
    let gets = mount.requests(Some("get"));
    assert_eq!(reads(&site.mnt.join("cold"), 0), Ok(()));
    mount.all("migrate", &site.mnt.join("new"));
    assert_eq!(reads(&site.mnt.join("new"), 2), Ok(()));
    assert_eq!(mount.counter("s3_throttled_total") - throttled, 6);
    assert!(mount.requests(Some("get")) > gets);
    let codes = &mount.status()["counters"]["s3_requests_total"];
    assert_eq!((&codes["put"]["503"], &codes["get"]["429"]), (&3.into(), &1.into()), "{codes}");
    mount.detach();
}

#[test]
fn credentials_that_expire_are_looked_for_anew() {
    if !can_tier() {
        return;
    }
    let liar = Liar::start();
    let dir = super::harness::site::scratch();
    let file = dir.path().join("credentials");
    let write = |key: &str| {
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n");
        std::fs::write(&file, text).unwrap();
    };
    write("FIRST");
    let mut env = liar.env();
    env.retain(|(name, _)| !name.contains("KEY"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    env.push(pair("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()));
    env.push(pair("AWS_CONFIG_FILE", "/dev/null"));
    let (site, mount) = mounted(&liar, Start { env, ..liar.mount_options() });
    let (cold, warm) = (site.mnt.join("cold"), site.mnt.join("warm"));

    // Expired, and nobody has renewed them yet.
    liar.script(Rule::new(Lie::answers(400, "ExpiredToken")).signed_by("FIRST"));
    says(&fails(&mount, "recall", &cold), &["cold", "data/seg/", "ExpiredToken", "renew the"]);
    assert_eq!(reads(&warm, 1), Ok(()));
    write("SECOND");
    let right = wait_for(Duration::from_secs(60), || reads(&cold, 0).ok());
    assert!(right.is_some(), "{:?}", reads(&cold, 0));

    // Renewed before they expire: nobody notices.
    mount.all("release", &cold);
    write("THIRD");
    liar.script(Rule::new(Lie::answers(403, "InvalidAccessKeyId")).signed_by("SECOND"));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(reads(&cold, 0), Ok(()));
    mount.detach();
}

#[test]
fn a_bucket_that_became_read_only_takes_nothing_and_gives_what_it_has() {
    if !can_tier() {
        return;
    }
    let liar = Liar::start();
    let (site, mount) = mounted(&liar, liar.mount_options());
    mount.detach();
    for op in [Op::Put, Op::Delete, Op::CreateUpload] {
        liar.script(Rule::new(Lie::answers(403, "AccessDenied")).on(op));
    }
    let mount = site.start(&liar.mount_options());
    let text = fails(&mount, "archive", &site.mnt.join("new"));
    says(&text, &["new", "data/seg/", "AccessDenied", "let these credentials"]);
    assert_eq!(mount.state(&site.mnt.join("new")), "resident");
    assert_eq!(reads(&site.mnt.join("new"), 2), Ok(()));
    assert_eq!(reads(&site.mnt.join("cold"), 0), Ok(()));
    assert_eq!(mount.status()["tenants"][0]["verify"], "readback", "in doubt");
    mount.detach();
}

#[test]
fn an_outage_is_over_when_the_engine_says_so() {
    if !can_tier() {
        return;
    }
    const OUTAGE: Duration = Duration::from_millis(1500);
    let liar = Liar::start();
    let (site, mount) = mounted(&liar, liar.mount_options());
    let begins = liar.age();
    liar.script(Rule::new(Lie::answers(503, "ServiceUnavailable")).during(begins..begins + OUTAGE));
    let (cold, warm) = (site.mnt.join("cold"), site.mnt.join("warm"));
    let right = wait_for(Duration::from_secs(60), || {
        assert_eq!(reads(&warm, 1), Ok(()), "what is here is read all along");
        reads(&cold, 0).ok()
    });
    assert!(right.is_some(), "{:?}", reads(&cold, 0));
    assert!(liar.age() >= begins + OUTAGE, "it was read while the engine was away");
    assert!(mount.counter("s3_throttled_total") > 0);
    mount.detach();
}

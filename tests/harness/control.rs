//! The control socket, spoken to by hand: thousands of rounds need verbs that cost no
//! process, and a second client keeps the wire format honest.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a move may take to answer.
const LIMIT: Duration = Duration::from_secs(120);

/// Posts a move and reads its answer to the end. What became of the file is not looked at:
/// races end in skips and failures as often as in moves. None where the daemon is gone.
pub fn run_move(socket: &Path, verb: &str, path: &Path, recursive: bool) -> Option<String> {
    let body = serde_json::json!({
        "verb": verb,
        "paths": [path.to_str().expect("tests use UTF-8 paths here")],
        "recursive": recursive,
        "wait": false,
    });
    post(socket, "/v1/move", &body)
}

/// Posts JSON and reads the answer to its end. None where the daemon is gone.
pub fn post(socket: &Path, route: &str, body: &serde_json::Value) -> Option<String> {
    let body = body.to_string();
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!(
        "POST {route} HTTP/1.1\r\nHost: coldfs\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    // A move that fails says so; a request that is not understood is a fault of one of us.
    let misunderstood = ["400", "405", "415", "422"].map(|code| format!("HTTP/1.1 {code}"));
    assert!(
        !misunderstood.iter().any(|status| answer.starts_with(status)),
        "the control socket refuses {route} {body}: {answer}"
    );
    Some(answer)
}

//! `coldfs s3 serve`: the embedded store on a port, for any S3 tool.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Outcome;
use super::output::{Output, unwritten};
use crate::background::asked_to_end;
use crate::control::wire::{Problem, ProblemKind};
use crate::store::serve::{Credentials, Server};

const SERVE_HELP: &str = "\
Examples:
  coldfs s3 serve /var/lib/coldfs/store
  coldfs s3 serve ./store --listen 127.0.0.1:9000 --access-key k --secret-key s

The bucket of embedded stores is `coldfs`. The server answers until it is interrupted.
Without keys it makes new ones and prints them, ready for a shell.";

/// Look at the embedded store with any S3 tool
#[derive(Debug, Args)]
#[command(after_long_help = SERVE_HELP)]
pub struct S3Args {
    #[command(subcommand)]
    verb: S3Verb,
}

#[derive(Debug, Subcommand)]
enum S3Verb {
    Serve(ServeArgs),
}

/// Serve a disk: store's directory over HTTP
#[derive(Debug, Args)]
#[command(after_long_help = SERVE_HELP)]
struct ServeArgs {
    /// The directory that disk: names
    dir: PathBuf,

    /// Address and port; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDR:PORT")]
    listen: SocketAddr,

    /// Access key; a random one otherwise
    #[arg(long, requires = "secret_key")]
    access_key: Option<String>,

    /// Secret key
    #[arg(long, requires = "access_key")]
    secret_key: Option<String>,
}

/// How the server is reached, and by which keys.
#[derive(Serialize)]
struct Serving<'a> {
    endpoint_url: String,
    region: &'a str,
    access_key_id: &'a str,
    secret_access_key: &'a str,
}

fn people(serving: &Serving<'_>) -> String {
    format!(
        "export AWS_ENDPOINT_URL={} AWS_REGION={} AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}",
        serving.endpoint_url, serving.region, serving.access_key_id, serving.secret_access_key
    )
}

/// Serves until interrupted.
pub fn run(args: S3Args, output: &mut Output) -> Result<Outcome, Problem> {
    let S3Verb::Serve(args) = args.verb;
    let failed = |what: String| {
        Problem::new(ProblemKind::Store, what, "check the directory, its permissions and the port")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failed(format!("start the runtime: {error}")))?;
    let credentials = match (args.access_key, args.secret_key) {
        (Some(access_key), Some(secret_key)) => Credentials { access_key, secret_key },
        _ => Credentials::random(),
    };
    let is_new = std::fs::read_dir(&args.dir).map_or(true, |mut names| names.next().is_none());
    runtime.block_on(async {
        let server = Server::bind(&args.dir, args.listen, &credentials)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let serving = Serving {
            endpoint_url: format!("http://{}", server.address()),
            region: "us-east-1",
            access_key_id: &credentials.access_key,
            secret_access_key: &credentials.secret_key,
        };
        if is_new {
            output.note(&format!("{}: a new store: nothing was there", args.dir.display()));
        }
        output.answer(&serving, people).map_err(unwritten)?;
        server
            .run(async {
                if let Err(error) = asked_to_end().await {
                    tracing::error!(%error, "cannot listen to signals: ending");
                }
            })
            .await;
        Ok(Outcome::Done)
    })
}

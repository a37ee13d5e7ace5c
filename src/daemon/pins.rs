//! Pinning and unpinning.

use std::cell::RefCell;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::failures::Failures;
use super::served::Served;
use crate::control::wire::{PinReport, PinRequest, Problem};
use crate::file_id::Ino;
use crate::tenant::Pin;
use crate::walk::{Found, walk};

/// Pins files and directories, or takes their pins off.
pub(super) async fn run(
    served: &Arc<Served>,
    request: PinRequest,
    cancel: CancellationToken,
) -> Result<PinReport, Problem> {
    served.may_change()?;
    let mut starts = Vec::new();
    for path in &request.paths {
        starts.push(served.locate(path.as_path()).await?);
    }
    let setting = Arc::clone(served);
    let walk = served.walks.run(cancel, move |stop| {
        let mut report = PinReport::default();
        let failures = RefCell::new(Failures::default());
        for start in starts {
            let wanted = request.pinned.then_some(Pin::NeverRelease);
            let mut set = |file: &Found| {
                let changed = setting.tenant.pin(&file.fd).and_then(|pin| {
                    if pin == wanted {
                        return Ok(false);
                    }
                    setting.tenant.set_pin(&file.fd, wanted).map(|()| true)
                });
                match changed {
                    Ok(true) => {
                        report.changed += 1;
                        // Its ctime moved.
                        setting.inodes.tell_kernel(Ino(file.stat.st_ino));
                    }
                    Ok(false) => report.already += 1,
                    Err(error) => failures.borrow_mut().note(&setting, &file.path, &error),
                }
            };
            // A pin on a directory holds for all below it.
            if !request.recursive || request.pinned {
                set(&start);
                continue;
            }
            let mut visit = |file: Found| {
                let pinnable =
                    matches!(file.stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
                if pinnable {
                    set(&file);
                }
                stop.flow()
            };
            let mut fail = |path: &[u8], error: std::io::Error| {
                failures.borrow_mut().note(&setting, path, &error);
            };
            if walk(&setting.tenant, start, &mut visit, &mut fail).is_break() {
                break;
            }
        }
        let failures = failures.into_inner();
        (report.failed, report.failed_total) = (failures.named, failures.total);
        report
    });
    Ok(walk.await?)
}

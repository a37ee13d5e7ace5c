//! `top` and `brake`: the storm guard, as commands see it.

use super::served::Served;
use crate::control::wire::{Alarm, Application, BrakeReport, BrakeRequest, TopReport};
use crate::guard::brake;
use crate::guard::ledger::Account;
use crate::units::shown_seconds;

pub(super) fn top(served: &Served) -> TopReport {
    TopReport {
        tenant: served.tenant.name.clone(),
        mountpoint: served.options.mountpoint.clone().into(),
        applications: served.guard.accounts().into_iter().map(application).collect(),
        alarm: served.guard.alarm().map(alarm),
        heat: None,
    }
}

pub(super) fn brake(served: &Served, request: &BrakeRequest) -> BrakeReport {
    let on = served.guard.alarm().map(alarm);
    let released = request.release && served.guard.let_go();
    if released {
        tracing::warn!(tenant = %served.tenant.name, "a person released the recall brake");
    }
    BrakeReport {
        tenant: served.tenant.name.clone(),
        mountpoint: served.options.mountpoint.clone().into(),
        alarm: on,
        released,
    }
}

/// A note for `status` while the brake is on.
pub(super) fn note(served: &Served) -> Option<String> {
    let alarm = served.guard.alarm()?;
    if let Some(error) = alarm.unreadable {
        return Some(format!(
            "the recall brake is on: .coldfs/brake cannot be read ({error}); cold files are \
             refused until `coldfs brake --release`"
        ));
    }
    Some(format!(
        "the recall brake is on: {} cold files were opened within {}; they are refused until \
         `coldfs brake --release`; `coldfs top` shows who asked",
        alarm.files,
        shown_seconds(alarm.window.as_secs())
    ))
}

fn alarm(alarm: brake::Alarm) -> Alarm {
    let brake::Alarm { files, bytes, window, since, unreadable } = alarm;
    Alarm { files, bytes, window_seconds: window.as_secs(), since, unreadable }
}

fn application(account: Account) -> Application {
    Application {
        name: account.who.name,
        user: account.who.uid,
        class: account.who.class,
        files: account.files,
        bytes: account.bytes,
        denied: account.denied,
        waiting: account.waiting,
        waited_ms: u64::try_from(account.waited.as_millis()).unwrap_or(u64::MAX),
    }
}

//! What a person reads when everything is up.

use onsale_platform::settings::without_credentials;
use onsale_testkit::place::Place;

use crate::running::Running;

/// Addresses, accounts, where the data is, three commands to copy.
pub(super) fn text(running: &Running, place: Option<&Place>, ready_after_s: f64) -> String {
    let row = |name: &str, value: String| format!("  {name:<10} {value}");
    let (accounts, data_dir) = (&running.accounts, &running.data_dir);
    // Of our own Postgres it opens nothing but this machine's demo.
    let database = match place {
        Some(_) => running.database.clone(),
        None => shown(&running.database),
    };
    let mut lines = vec![
        format!("\nonsale is up, ready after {ready_after_s:.1} s.\n"),
        row("API", format!("{}/api/v1", running.api)),
        row("Metrics", running.metrics.join("  ")),
        row("Postgres", database),
        row("NATS", shown(&running.nats)),
        row(
            "Admin",
            sign_in(&accounts.admin.email, &accounts.admin.password),
        ),
    ];
    if let Some(gateway) = &running.gateway {
        lines.push(row("Gateway", format!("{gateway}, simulated")));
    }
    if let [first, .., last] = accounts.buyers.as_slice() {
        let emails = format!("{} to {}", first.email, last.email);
        lines.push(row("Buyers", sign_in(&emails, &first.password)));
    }
    lines.push(row("Data", data_dir.display().to_string()));
    if let Some(place) = place
        && let Some(account) = &place.account
    {
        let mut note = format!("Postgres won't run as root: user {} runs it", account.name);
        if !place.dir.starts_with(data_dir) {
            note += &format!(
                " and can't enter the above, so its data is in {}",
                place.dir.display()
            );
        }
        lines.push(row("", note));
    }
    lines.push(row("Logs", data_dir.join("logs").display().to_string()));

    let own =
        std::env::current_exe().map_or_else(|_| "onsale".into(), |path| path.display().to_string());
    let flag = data_dir_flag(running);
    lines.push("\nTry, in another terminal:\n".to_owned());
    lines.push(format!("  curl -s {}/api/v1/concerts", running.api));
    lines.push(format!("  {own} demo{flag}"));
    lines.push(format!("  {own} audit{flag}"));
    if let Some(room) = &running.demo.room_schedule_id {
        let seconds = super::room::OPENS_AFTER.as_secs();
        lines.push(format!("  {own} crowd{flag}"));
        lines.push(format!(
            "\nThe crowd goes to {room}, whose waiting room opens in {seconds} s."
        ));
    }
    lines.push("\nCtrl-C stops everything and keeps the data.".to_owned());
    lines.join("\n")
}

fn shown(url: &str) -> String {
    without_credentials(url).unwrap_or_else(|| "(set)".to_owned())
}

fn sign_in(email: &str, password: &str) -> String {
    format!("{email}  password {password}")
}

/// Nothing, where the commands find the data directory by themselves.
fn data_dir_flag(running: &Running) -> String {
    let default = std::path::absolute(crate::running::DEFAULT_DATA_DIR);
    if default.is_ok_and(|path| path == running.data_dir) {
        String::new()
    } else {
        format!(" --data-dir {}", running.data_dir.display())
    }
}

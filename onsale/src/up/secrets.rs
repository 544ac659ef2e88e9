//! What `onsale up` makes up once and keeps in its data directory, for its owner only.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;
use onsale_platform::nats_users::User;
use onsale_platform::rights::Role;
use onsale_platform::webhook;

use super::DataDir;
use crate::running;

const GATEWAY_KEY: &str = "gateway-key";

/// What the simulated payment gateway of a data directory knows us by.
///
/// # Errors
/// When it can't be read.
pub(crate) fn gateway_key(dir: &DataDir) -> anyhow::Result<String> {
    let path = dir.secrets().join(GATEWAY_KEY);
    let key = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(key.trim().to_owned())
}

/// Everything secret.
pub struct Secrets {
    /// The key that signs access tokens.
    pub token: String,
    roles: [String; 3],
    /// What the simulated payment gateway knows us by.
    pub gateway: String,
    /// What its notifications are signed with.
    pub webhook: String,
    /// Of the users of NATS, in the order of [`User::ALL`].
    pub users: [String; 4],
}

impl Secrets {
    /// Reads them, and makes those that are missing, so that tokens and roles outlive a restart.
    ///
    /// # Errors
    /// When a file can't be read or written.
    pub fn keep(dir: &DataDir) -> anyhow::Result<Self> {
        let folder = dir.secrets();
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.with_context(|| format!("creating {}", folder.display()))?;
        let of = |server: &str, name: &str| secret(&folder.join(format!("{server}-{name}")));
        let [a, b, c] = Role::ALL.map(|role| of("postgres", role.as_str()));
        let [w, x, y, z] = User::ALL.map(|user| of("nats", user.as_str()));
        Ok(Self {
            gateway: secret(&folder.join(GATEWAY_KEY))?,
            webhook: kept(&folder.join("gateway-webhook"), webhook_secret)?,
            token: secret(&dir.token_secret())?,
            roles: [a?, b?, c?],
            users: [w?, x?, y?, z?],
        })
    }

    /// The password of a role of Postgres.
    pub fn role(&self, role: Role) -> &str {
        let place = Role::ALL.iter().position(|known| *known == role);
        &self.roles[place.expect("all roles are listed")]
    }
}

/// 32 random bytes in hexadecimal digits: made once.
fn secret(path: &Path) -> anyhow::Result<String> {
    let digits = || {
        let bytes = rand::random::<[u8; 32]>();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    kept(path, digits)
}

fn webhook_secret() -> String {
    let secret = webhook::Secret::of_bytes(&rand::random::<[u8; 32]>());
    secret.expect("a secret may have 32 bytes").expose()
}

/// What a file has; made once.
fn kept(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    let failed = || format!("keeping a secret in {}", path.display());
    if path.exists() {
        let text = fs::read_to_string(path).with_context(failed)?;
        return Ok(text.trim().to_owned());
    }
    let secret = make();
    let aside = path.with_extension("new");
    let mut file = running::private_file(&aside).with_context(failed)?;
    writeln!(file, "{secret}")
        .and_then(|()| fs::rename(&aside, path))
        .with_context(failed)?;
    Ok(secret)
}

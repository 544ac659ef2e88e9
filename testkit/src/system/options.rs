//! What a system of a test consists of.

#[cfg(doc)]
use super::{Process, System};

/// What to start.
#[derive(Debug, Clone)]
pub struct SystemOptions {
    /// Ingress processes.
    pub ingresses: usize,
    /// Worker processes, each with all roles.
    pub workers: usize,
    /// Further settings of all processes, as environment variables.
    pub settings: Vec<(String, String)>,
    /// Whether each process reaches its servers through proxies that can break its links.
    pub proxied: bool,
    /// Whether it has servers of its own.
    pub own_servers: bool,
    /// Whether it has a simulated payment gateway.
    pub gateway: bool,
    /// Whether its processes reach both servers by TLS, verified by an authority of the test's own.
    pub tls: bool,
}

impl Default for SystemOptions {
    fn default() -> Self {
        Self {
            ingresses: 1,
            workers: 1,
            settings: Vec::new(),
            proxied: false,
            own_servers: false,
            gateway: false,
            tls: false,
        }
    }
}

impl SystemOptions {
    /// So many ingresses.
    #[must_use]
    pub fn ingresses(self, ingresses: usize) -> Self {
        Self { ingresses, ..self }
    }

    /// So many workers.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// One more setting.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// With [`Process::links`] that can be broken.
    #[must_use]
    pub fn proxied(self) -> Self {
        Self {
            proxied: true,
            ..self
        }
    }

    /// With a simulated payment gateway of its own: [`System::gateway`].
    #[must_use]
    pub fn gateway(self) -> Self {
        Self {
            gateway: true,
            ..self
        }
    }

    /// With TLS to both servers.
    #[must_use]
    pub fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// With [`System::servers`] that can be killed and restarted.
    #[must_use]
    pub fn own_servers(self) -> Self {
        Self {
            own_servers: true,
            ..self
        }
    }
}

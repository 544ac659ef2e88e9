//! One nats-server of our own, with JetStream, on loopback, that is gone when we are.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use onsale_platform::address;
use onsale_platform::nats_users::{self, User};
use onsale_schema::subjects::Subjects;

use crate::server::{self, Error, Log, io_error};
use crate::spawn::{self, Child, Signal, Tie};
use crate::tools::Tools;

const SERVER: &str = "nats-server";
const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The users of a server, each with the rights that it has in production.
#[derive(Clone)]
pub struct NatsUsers {
    /// The names of the subjects that they may use.
    pub subjects: Subjects,
    /// Their passwords, in the order of [`User::ALL`].
    pub passwords: [String; 4],
    /// The password of one more user, `test`, that may do anything: for tests, which break things.
    pub test_password: Option<String>,
}

impl std::fmt::Debug for NatsUsers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NatsUsers")
    }
}

impl NatsUsers {
    /// Users of a test, and one that may do anything.
    #[must_use]
    pub fn of_test(subjects: Subjects) -> Self {
        Self {
            subjects,
            passwords: User::ALL.map(|user| format!("{}-password", user.as_str())),
            test_password: Some("test-password".to_owned()),
        }
    }

    fn password(&self, user: User) -> &str {
        let place = User::ALL.iter().position(|known| *known == user);
        &self.passwords[place.expect("all users are listed")]
    }

    /// Their part of the configuration.
    fn config(&self) -> String {
        let quote = |user| in_quotes(self.password(user));
        let users = nats_users::authorization(&self.subjects, quote);
        match &self.test_password {
            Some(password) => {
                let test = format!(
                    "users: [\n    {{ user: test, password: {} }}\n",
                    in_quotes(password)
                );
                users.replacen("users: [\n", &test, 1)
            }
            None => users,
        }
    }
}

/// How a server shall run.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Folder of its streams; made when it is not there.
    pub data_dir: PathBuf,
    /// The port on loopback; any free one when there is none.
    pub port: Option<u16>,
    /// The port of its monitoring pages; none when there is none.
    pub monitor_port: Option<u16>,
    /// Whether a publish is acknowledged only after an fsync. A single server needs it to survive
    /// a power cut; a killed server loses nothing without it.
    pub sync_always: bool,
    /// Its users; without them, anybody may do anything.
    pub users: Option<NatsUsers>,
    /// Certificate and key, as PEM files, with which it speaks TLS to everybody.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Where it logs; beside the data when there is none.
    pub log: Option<PathBuf>,
}

impl NatsOptions {
    /// A server on any free port, as it runs in development.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: None,
            monitor_port: None,
            sync_always: false,
            users: None,
            tls: None,
            log: None,
        }
    }
}

/// A running nats-server. Dropping it stops it, its data stays.
#[derive(Debug)]
pub struct NatsServer {
    child: Option<Child>,
    program: PathBuf,
    dir: PathBuf,
    options: NatsOptions,
    port: u16,
}

impl NatsServer {
    /// Starts a server, on new data or on what a former one has left. It accepts connections, and
    /// its streams are there, when this returns.
    ///
    /// # Errors
    /// With the end of the server's log, when it does not start.
    pub async fn start(tools: &Tools, options: NatsOptions) -> Result<Self, Error> {
        let failed = || format!("creating {}", options.data_dir.display());
        let dir = std::path::absolute(&options.data_dir).map_err(io_error(failed()))?;
        fs::create_dir_all(&dir).map_err(io_error(failed()))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(io_error(failed()))?;
        Self::settled(&dir).await?;
        let program = tools.nats_server.clone();
        let mut server = Self {
            child: None,
            program,
            dir,
            port: 0,
            options,
        };
        server.launch(server.options.port).await?;
        Ok(server)
    }

    /// Waits until a server that a killed run has left on this data has gone.
    ///
    /// # Errors
    /// [`Error::InUse`] when it stays.
    pub async fn settled(data_dir: &Path) -> Result<(), Error> {
        let Some(pid) = server::pid_in(&data_dir.join("nats-server.pid")) else {
            return Ok(());
        };
        let config = data_dir.join("nats-server.conf");
        let works_here = |pid: u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                line.split(|byte| *byte == 0)
                    .any(|word| word == config.as_os_str().as_encoded_bytes())
            })
        };
        server::until_leftover_is_gone(SERVER, pid, data_dir, works_here, STOP_LIMIT).await
    }

    /// The address of the server, for a user who may do all that the server knows of: in tests
    /// anything, else what an operator may.
    #[must_use]
    pub fn url(&self) -> String {
        let test = self
            .options
            .users
            .as_ref()
            .and_then(|users| users.test_password.as_ref());
        match test {
            Some(password) => address::with_user(&self.place(), "test", password),
            None => self.url_of(User::Operator),
        }
    }

    /// The address of the server for a user, with its password where there are users.
    #[must_use]
    pub fn url_of(&self, user: User) -> String {
        match &self.options.users {
            Some(users) => {
                let name = user.name(&users.subjects);
                address::with_user(&self.place(), &name, users.password(user))
            }
            None => self.place(),
        }
    }

    fn place(&self) -> String {
        let scheme = if self.options.tls.is_some() {
            "tls"
        } else {
            "nats"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The folder of its streams.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process id; 0 when it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::pid)
    }

    /// The port on loopback. It stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| child.exit_status().is_none())
    }

    /// Waits until the server ends; for ever when it does not run.
    pub async fn ended(&self) -> ExitStatus {
        match &self.child {
            Some(child) => child.wait().await,
            None => std::future::pending().await,
        }
    }

    /// Sends a signal to the server, for instance SIGSTOP and SIGCONT.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            child.signal(signal);
        }
    }

    /// Stops the server and waits for its end.
    pub async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child.stop(Signal::SIGTERM, STOP_LIMIT).await;
        }
    }

    /// Kills the server as a crash would.
    pub async fn kill9(&mut self) {
        if let Some(child) = self.child.take() {
            child.stop(Signal::SIGKILL, STOP_LIMIT).await;
        }
    }

    /// Starts again on the same data and port, after stopping what still runs.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.stop().await;
        self.launch(Some(self.port)).await
    }

    async fn launch(&mut self, port: Option<u16>) -> Result<(), Error> {
        // The server tells its port in a file, which is also the last thing it does when it starts.
        let ports_dir = self.dir.join("ports");
        if ports_dir.exists() {
            fs::remove_dir_all(&ports_dir)
                .map_err(io_error(format!("removing {}", ports_dir.display())))?;
        }
        fs::create_dir(&ports_dir)
            .map_err(io_error(format!("creating {}", ports_dir.display())))?;
        let config = self.dir.join("nats-server.conf");
        let written = write_private(&config, &self.config(port, &ports_dir));
        written.map_err(io_error(format!("writing {}", config.display())))?;

        let log_path = self
            .options
            .log
            .clone()
            .unwrap_or_else(|| self.dir.join("nats-server.log"));
        let (log, log_file) = Log::open(&log_path)?;
        let mut command = Tie::new(Signal::SIGTERM).command(&self.program);
        command.arg("--config").arg(&config);
        let errors = log_file.try_clone().map_err(io_error("sharing a log"))?;
        command
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log_file)
            .stderr(errors);
        let child = spawn::spawn(command)
            .await
            .map_err(io_error("starting nats-server"))?;

        let ports_file = ports_dir.join(format!("nats-server_{}.ports", child.pid()));
        server::until_ready(SERVER, &child, &log, READY_LIMIT, || {
            port_in(&ports_file).is_some()
        })
        .await?;
        self.port = port_in(&ports_file).expect("it was just there, and nobody else writes it");
        self.child = Some(child);
        Ok(())
    }

    fn config(&self, port: Option<u16>, ports_dir: &Path) -> String {
        // -1 lets the server take a free port itself, so that nobody can be quicker.
        let port = port.map_or(-1, i32::from);
        let monitor = match self.options.monitor_port {
            Some(monitor_port) => format!("http: \"127.0.0.1:{monitor_port}\"\n"),
            None => String::new(),
        };
        // Streams reserve their largest size, and many small systems may share this server: the disk
        // is guarded by the streams' own bounds.
        let sync = if self.options.sync_always {
            "always"
        } else {
            "2m"
        };
        let tls = self
            .options
            .tls
            .as_ref()
            .map_or_else(String::new, |(cert, key)| {
                let (cert, key) = (path_in_quotes(cert), path_in_quotes(key));
                format!("tls {{\n  cert_file: {cert}\n  key_file: {key}\n}}\n")
            });
        let users = self
            .options
            .users
            .as_ref()
            .map_or_else(String::new, NatsUsers::config);
        format!(
            "# Written by onsale at every start.\n\
             listen: \"127.0.0.1:{port}\"\n\
             {monitor}\
             server_name: onsale\n\
             pid_file: {pid_file}\n\
             ports_file_dir: {ports_dir}\n\
             jetstream {{\n  store_dir: {store_dir}\n  max_memory_store: 1GB\n  max_file_store: 100TB\n  sync_interval: {sync}\n}}\n\
             {tls}{users}",
            pid_file = path_in_quotes(&self.dir.join("nats-server.pid")),
            ports_dir = path_in_quotes(ports_dir),
            store_dir = path_in_quotes(&self.dir),
        )
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            child.signal(Signal::SIGTERM);
            child.wait_blocking(Duration::from_secs(10));
        }
    }
}

/// A string of nats-server's configuration language.
fn in_quotes(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn path_in_quotes(path: &Path) -> String {
    in_quotes(&path.display().to_string())
}

/// Writes a file that only its owner may read: it has passwords.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// The client port in a ports file: `{"nats": ["nats://127.0.0.1:34567"], …}`.
fn port_in(ports_file: &Path) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(ports_file).ok()?).ok()?;
    ports
        .get("nats")?
        .get(0)?
        .as_str()?
        .rsplit(':')
        .next()?
        .parse()
        .ok()
}

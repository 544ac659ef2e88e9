//! From nothing to a system that serves, and back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use onsale_platform::db;
use onsale_platform::nats_users::User;
use onsale_platform::rights::Role;
use onsale_schema::ScheduleId;
use onsale_testkit::place::Place;
use onsale_testkit::{Tools, log_tail};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::owners;
use super::plan::{self, Plan};
use super::room;
use super::secrets::Secrets;
use super::servers::{self, Servers};
use super::steps::{Steps, say};
use super::supervisor::{Board, Crew, Spec};
use super::{Args, DataDir};
use crate::running::{Catalogue, Lock, Running};
use crate::seed::{self, Seeded};
use crate::{audit, demo};

/// How long our processes may take until they serve: a takeover waits for a lease.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// So many deaths before all serve, and it is given up.
const DEATHS_LIMIT: u32 = 6;
const POLL: Duration = Duration::from_millis(25);

/// A started system.
pub(super) struct System {
    dir: DataDir,
    subject_prefix: String,
    /// Address of the database for who only reads.
    reader: Option<String>,
    plan: Plan,
    servers: Servers,
    ingresses: Crew,
    workers: Crew,
    gateway: Crew,
    board: Board,
    seeded: Seeded,
    /// A date that is to have a waiting room.
    room: ScheduleId,
    /// Whether it has one, which opens soon.
    has_room: bool,
}

impl System {
    /// Starts everything, step by step.
    pub(super) async fn start(args: &Args, dir: DataDir, steps: &Steps) -> anyhow::Result<Self> {
        let (tools, plan) = steps
            .step("checks", check(args, &dir), |(_, plan)| {
                format!(
                    "tools, disk and ports are fine; the API will be on port {}",
                    plan.api[0]
                )
            })
            .await?;
        let secrets = Secrets::keep(&dir)?;
        let starting = Servers::start(args, tools.as_ref(), &plan, &dir, &secrets);
        let mut servers = steps.step("servers", starting, Servers::describe).await?;
        let migrating = async { Ok(db::migrate(&servers.database_url).await?) };
        steps
            .step("migrations", migrating, |applied| match applied.len() {
                0 => "the database is up to date".to_owned(),
                count => format!("{count} applied"),
            })
            .await?;

        let roles = servers.make_roles(args, &secrets);
        steps.step("roles", roles, |done| *done).await?;
        let streams = servers.keep_streams(args);
        steps
            .step("streams", streams, |()| "are as the settings say")
            .await?;

        let seeding = seed::seed(&servers.database_url, |_| {});
        let seeded = steps.step("demo data", seeding, describe_seeded).await?;
        let room = room::create(&servers.database_url).await?;

        let programs = programs()?;
        let board = Board::default();
        servers.announce(&board);
        let crews = Crews {
            plan: &plan,
            dir: &dir,
            servers: &servers,
            secrets: &secrets,
        };
        let gateway = Crew::start(crews.gateway(&programs.own), &board);
        let workers = Crew::start(crews.workers(args.workers, &programs.workers), &board);
        let ingresses = Crew::start(crews.ingresses(args.ingresses, &programs.ingress), &board);
        let has_roles = servers.has_roles();
        let reader = has_roles.then(|| servers.database_of(Role::Reader, &secrets));
        let system = Self {
            dir,
            subject_prefix: args.subject_prefix.clone(),
            reader,
            plan,
            servers,
            ingresses,
            workers,
            gateway,
            board,
            seeded,
            room,
            has_room: false,
        };
        let ready = |(): &()| {
            format!(
                "{} ingress, {} workers are ready",
                args.ingresses, args.workers
            )
        };
        steps.step("processes", system.until_ready(), ready).await?;
        Ok(system)
    }

    /// What runs now.
    pub(super) fn running(&self) -> Running {
        Running {
            api: self.api(0),
            metrics: self.metrics_urls(),
            nats: self.servers.nats_url.clone(),
            database: self.servers.database_url.clone(),
            reader: self.reader.clone(),
            gateway: self.plan.gateway.map(local),
            data_dir: self.dir.path().to_owned(),
            accounts: self.seeded.accounts.clone(),
            demo: Catalogue {
                concert_id: self.seeded.concert_id.to_string(),
                hall_schedule_id: self.seeded.hall_schedule_id.to_string(),
                stadium_schedule_id: self.seeded.stadium_schedule_id.to_string(),
                room_schedule_id: self.has_room.then(|| self.room.to_string()),
            },
            processes: self.board.processes(),
        }
    }

    /// Where our Postgres lives.
    pub(super) fn place(&self) -> Option<&Place> {
        self.servers
            .postgres()
            .map(onsale_testkit::PostgresServer::location)
    }

    fn api(&self, index: usize) -> String {
        local(self.plan.api[index])
    }

    /// Plays the demo, the first time on a data directory.
    pub(super) async fn play_demo_once(&self) -> anyhow::Result<()> {
        let marker = self.dir.demo_was_played();
        if marker.exists() {
            return Ok(());
        }
        println!();
        let options = demo::Options {
            api: self.api(0),
            gateway: self.plan.gateway.map(local),
            audit: Some(
                audit::Options::new(self.reader.as_ref().unwrap_or(&self.servers.database_url))
                    .with_nats(&self.servers.nats_url, &self.subject_prefix),
            ),
        };
        if let Err(error) = demo::play(&options).await {
            // What runs can be looked at; the next start plays it again.
            say(format!("\nthe demo failed: {error:#}"));
            return Ok(());
        }
        fs::write(&marker, "").with_context(|| format!("writing {}", marker.display()))
    }

    /// Gives a date a waiting room that opens soon. Whoever changed the demo so that this fails has
    /// everything else.
    pub(super) async fn open_room(&mut self, steps: &Steps) {
        let api = self.api(0);
        let opens = |(): &()| format!("opens in {} s", room::OPENS_AFTER.as_secs());
        let opening = room::open(&api, self.room);
        match steps.step("waiting room", opening, opens).await {
            Ok(()) => self.has_room = true,
            Err(error) => say(format!("  the demo has no waiting room: {error:#}")),
        }
    }

    /// Keeps everything running, and its description true, until `stop`.
    pub(super) async fn keep(&mut self, lock: &Lock, stop: &CancellationToken) {
        let mut changes = self.board.changes();
        let mut running = self.running();
        let describing = async {
            while changes.changed().await.is_ok() {
                running.processes = self.board.processes();
                if let Err(error) = lock.describe(&running) {
                    say(format!("  could not describe what runs: {error}"));
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.servers.keep(&self.board) => {}
            () = describing => {}
        }
    }

    /// Stops everything: first nothing new comes in, then what came in is finished.
    pub(super) async fn stop(self, steps: &Steps) {
        let Self {
            ingresses,
            workers,
            gateway,
            mut servers,
            ..
        } = self;
        steps.wait("ingress", "stopped", ingresses.stop()).await;
        steps.wait("workers", "stopped", workers.stop()).await;
        steps.wait("gateway", "stopped", gateway.stop()).await;
        steps.wait("servers", "stopped", servers.stop()).await;
    }

    /// Waits until every process of ours serves, and every partition has an owner.
    async fn until_ready(&self) -> anyhow::Result<()> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .no_proxy()
            .build()?;
        let mut conn = db::connect(&self.servers.database_url).await?;
        let served = self.plan.gateway.iter().chain(&self.plan.api);
        let readiness = served.map(|port| format!("{}/readyz", local(*port)));
        let deadline = Instant::now() + READY_LIMIT;
        for url in self.metrics_urls().into_iter().chain(readiness) {
            while !answers_ok(&client, &url).await {
                self.wait_on(deadline, &url).await?;
            }
        }
        while !owners::all_live(&mut conn).await? {
            self.wait_on(deadline, "an owner of every partition")
                .await?;
        }
        Ok(())
    }

    /// A moment, unless there is no hope left.
    async fn wait_on(&self, deadline: Instant, what: &str) -> anyhow::Result<()> {
        if self.board.deaths() >= DEATHS_LIMIT {
            bail!("our processes die as they start\n{}", self.log_tails());
        }
        if Instant::now() >= deadline {
            let limit_s = READY_LIMIT.as_secs();
            bail!(
                "{what} was not there after {limit_s} s\n{}",
                self.log_tails()
            );
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }

    fn metrics_urls(&self) -> Vec<String> {
        let ports = self.plan.metrics.iter();
        ports
            .map(|port| format!("http://127.0.0.1:{port}/metrics"))
            .collect()
    }

    /// The end of each log of ours.
    fn log_tails(&self) -> String {
        let names = self
            .board
            .processes()
            .into_iter()
            .filter(|process| process.role != "postgres" && process.role != "nats");
        let tails = names.map(|process| {
            let path = self.dir.log(&format!("{}-{}", process.role, process.index));
            format!("--- {}\n{}", path.display(), log_tail(&path))
        });
        tails.collect::<Vec<_>>().join("\n")
    }
}

/// A server on this machine.
fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

async fn answers_ok(client: &reqwest::Client, url: &str) -> bool {
    client
        .get(url)
        .send()
        .await
        .is_ok_and(|response| response.status().is_success())
}

fn describe_seeded(seeded: &Seeded) -> String {
    match (seeded.schedules_created, seeded.users_created) {
        (0, 0) => "is there".to_owned(),
        (dates, users) => format!("{dates} dates and {users} users created"),
    }
}

/// Everything that can be known before something runs.
async fn check(args: &Args, dir: &DataDir) -> anyhow::Result<(Option<Tools>, Plan)> {
    let tools = match (&args.database_url, &args.nats_url) {
        (Some(_), Some(_)) => None,
        _ => Some(Tools::locate()?),
    };
    programs()?;
    plan::check_disk(dir.path())?;
    servers::settled(args, tools.as_ref(), dir).await?;
    let plan = Plan::make(args).await?;
    // Only now, when nothing is in the way.
    if args.fresh {
        servers::remove_data(tools.as_ref(), dir)?;
    }
    keep_former_logs(dir)?;
    Ok((tools, plan))
}

/// The logs of the last run stay beside those of this one.
fn keep_former_logs(dir: &DataDir) -> anyhow::Result<()> {
    let logs = dir.logs();
    let failed = || format!("keeping logs in {}", logs.display());
    fs::create_dir_all(&logs).with_context(failed)?;
    for entry in fs::read_dir(&logs).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            fs::rename(&path, path.with_extension("log.1")).with_context(failed)?;
        }
    }
    Ok(())
}

/// Our other programs.
struct Programs {
    own: PathBuf,
    ingress: PathBuf,
    workers: PathBuf,
}

/// They are built into the folder of this one.
fn programs() -> anyhow::Result<Programs> {
    let own = std::env::current_exe().context("finding this program")?;
    let sibling = |name: &str| {
        let path = own.with_file_name(name);
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "{} is not there; build it with `cargo build --release -p {name}`",
            path.display()
        )
    };
    Ok(Programs {
        ingress: sibling("onsale-ingress")?,
        workers: sibling("onsale-workers")?,
        own,
    })
}

/// What the processes of ours are told.
struct Crews<'a> {
    plan: &'a Plan,
    dir: &'a DataDir,
    servers: &'a Servers,
    secrets: &'a Secrets,
}

impl Crews<'_> {
    fn common(&self, role: Role, user: User, metrics_port: u16) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.servers.database_of(role, self.secrets)),
            ("NATS_URL", self.servers.nats_of(user)),
            ("ONSALE_METRICS_ADDR", format!("127.0.0.1:{metrics_port}")),
            // Who tries it out has subscribers on this machine.
            ("ONSALE_WEBHOOK_PRIVATE_TARGETS", "true".to_owned()),
            // Its output goes to a file.
            ("NO_COLOR", "1".to_owned()),
        ]
    }

    fn ingresses(&self, count: u16, program: &Path) -> Vec<Spec> {
        let one = |index: u16| {
            let (api, metrics) = (&self.plan.api, &self.plan.metrics);
            let place = usize::from(index);
            let mut environment = self.common(Role::Ingress, User::Ingress, metrics[place]);
            environment.push(("ONSALE_HTTP_ADDR", format!("127.0.0.1:{}", api[place])));
            environment.push(("ONSALE_TOKEN_SECRET", self.secrets.token.clone()));
            environment.push((
                "ONSALE_GATEWAY_WEBHOOK_SECRETS",
                self.secrets.webhook.clone(),
            ));
            // It listens on loopback, so that all its clients (the demo, k6, a browser) come from
            // one address. Limits of users and accounts are as they are by default.
            environment.extend(
                [
                    "ONSALE_RATE_ADDRESS_PER_S",
                    "ONSALE_SIGN_IN_ADDRESS_PER_MIN",
                    "ONSALE_CONNECTIONS_PER_ADDRESS_MAX",
                    "ONSALE_EVENT_STREAMS_PER_ADDRESS_MAX",
                ]
                .map(|limit| (limit, "0".to_owned())),
            );
            Spec {
                role: "ingress",
                index: index.into(),
                program: program.to_owned(),
                arguments: Vec::new(),
                environment,
                log: self.dir.log(&format!("ingress-{index}")),
            }
        };
        (0..count).map(one).collect()
    }

    fn workers(&self, count: u16, program: &Path) -> Vec<Spec> {
        let ports = &self.plan.metrics[self.plan.api.len()..];
        let one = |index: u16| {
            let port = ports[usize::from(index)];
            let mut environment = self.common(Role::Workers, User::Workers, port);
            // The simulated one has a card of everybody; without it the terminal is simulated.
            let mut cards = "terminal";
            if let Some(port) = self.plan.gateway {
                environment.push(("ONSALE_GATEWAY_URL", local(port)));
                environment.push(("ONSALE_GATEWAY_SECRET", self.secrets.gateway.clone()));
                cards = "gateway";
            }
            environment.push(("ONSALE_CARDS", cards.to_owned()));
            // The desk is simulated in any case.
            environment.push(("ONSALE_CASH", true.to_string()));
            Spec {
                role: "workers",
                index: index.into(),
                program: program.to_owned(),
                arguments: Vec::new(),
                environment,
                log: self.dir.log(&format!("workers-{index}")),
            }
        };
        (0..count).map(one).collect()
    }

    /// One, or none. It knows the address of the first ingress, and no server of ours.
    fn gateway(&self, program: &Path) -> Vec<Spec> {
        let one = |port: u16| Spec {
            role: "gateway",
            index: 0,
            program: program.to_owned(),
            arguments: vec!["gateway"],
            environment: vec![
                ("ONSALE_GATEWAY_ADDR", format!("127.0.0.1:{port}")),
                (
                    "ONSALE_GATEWAY_DIR",
                    self.dir.gateway().display().to_string(),
                ),
                ("ONSALE_GATEWAY_SECRET", self.secrets.gateway.clone()),
                (
                    "ONSALE_GATEWAY_WEBHOOK_URL",
                    format!("{}/api/v1/webhooks/payments", local(self.plan.api[0])),
                ),
                (
                    "ONSALE_GATEWAY_WEBHOOK_SECRETS",
                    self.secrets.webhook.clone(),
                ),
                ("NO_COLOR", "1".to_owned()),
            ],
            log: self.dir.log("gateway-0"),
        };
        self.plan.gateway.map(one).into_iter().collect()
    }
}

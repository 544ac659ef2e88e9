//! Programs that can't start, because an address or a secret is wrong: they say what is wrong, and
//! never with the secret.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use onsale_platform::address::with_user;
use onsale_platform::nats_users::User;
use onsale_platform::rights::Role;
use onsale_schema::subjects::Subjects;
use onsale_testkit::system::TOKEN_SECRET;
use onsale_testkit::{NatsOptions, NatsUsers, Scratch, TestDb, TestNats, ports};

use crate::canary::Canaries;
use crate::running::{PROGRAM, TALKATIVE, assert_silent};

/// Addresses of Postgres that can't be read, with a password; `P` is a closed port.
const BAD_DATABASES: [&str; 12] = [
    "postgres://u:SECRET@127.0.0.1:port/d",
    "postgres://u:SECRET@127.0.0.1:99999/d",
    "postgres://u:%zzSECRET@127.0.0.1:P/d",
    "postgres://u:x?SECRET@127.0.0.1:P/d",
    "postgres://u:x#SECRET@127.0.0.1:P/d",
    "postgres://u:x/SECRET@127.0.0.1:P/d",
    "postgres://u:x@SECRET@127.0.0.1:P/d",
    "postgres//u:SECRET@127.0.0.1:P/d",
    "u:SECRET@127.0.0.1:P/d",
    "host=127.0.0.1 password='SECRET",
    "postgres://127.0.0.1:P/d?password=SECRET&nonsense=1",
    "postgres://u:SECRET@127.0.0.1:P/d?sslmode=verify-full&sslrootcert=/none.pem",
];
/// The same of NATS.
const BAD_NATS: [&str; 10] = [
    "nats://u:SECRET@127.0.0.1:port",
    "nats://u:SECRET@127.0.0.1:99999",
    "nats://u:%zzSECRET@127.0.0.1:P",
    "nats://u:1?SECRET@127.0.0.1:P",
    "nats://u:1#SECRET@127.0.0.1:P",
    "nats://u:1@SECRET@127.0.0.1:P",
    "http://u:SECRET@127.0.0.1:P",
    "nats//u:SECRET@127.0.0.1:P",
    "nats://SECRET@127.0.0.1:P",
    "tls://u:SECRET@127.0.0.1:P?ca=/none.pem",
];

/// What a program needs to start.
struct Sound {
    db: TestDb,
    nats: TestNats,
    scratch: Scratch,
    closed: String,
}

impl Sound {
    async fn make() -> Self {
        let db = TestDb::create().await.unwrap();
        onsale_platform::db::migrate(db.url()).await.unwrap();
        db.make_roles().await.unwrap();
        let users = |options| NatsOptions {
            users: Some(NatsUsers::of_test(Subjects::new("").unwrap())),
            ..options
        };
        Self {
            db,
            nats: TestNats::start_with(users).await.unwrap(),
            scratch: Scratch::new("secrets").unwrap(),
            closed: ports::free().unwrap().to_string(),
        }
    }

    /// A program with all that it needs.
    fn program(&self, kind: Kind) -> Command {
        let mut command = Command::new(kind.path());
        command.env_clear().envs(TALKATIVE).args(kind.arguments());
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("ONSALE_DATA_DIR", self.scratch.path().join("data"));
        for name in [
            "ONSALE_TOOLS_DIR",
            "ONSALE_POSTGRES_BIN",
            "ONSALE_NATS_SERVER",
        ] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        let (database, user) = match kind {
            Kind::Ingress => (self.db.url_of(Role::Ingress), User::Ingress),
            Kind::Workers => (self.db.url_of(Role::Workers), User::Workers),
            Kind::Up | Kind::Migrate | Kind::Doctor => (self.db.url().to_owned(), User::Operator),
        };
        command.env("DATABASE_URL", database);
        command.env("NATS_URL", self.nats.server.url_of(user));
        if kind == Kind::Ingress {
            command.env("ONSALE_TOKEN_SECRET", TOKEN_SECRET);
            command.env("ONSALE_HTTP_ADDR", "127.0.0.1:0");
        }
        command
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ingress,
    Workers,
    Up,
    Migrate,
    Doctor,
}

impl Kind {
    fn path(self) -> PathBuf {
        let sibling = |name: &str| Path::new(PROGRAM).with_file_name(name);
        match self {
            Self::Ingress => sibling("onsale-ingress"),
            Self::Workers => sibling("onsale-workers"),
            Self::Up | Self::Migrate | Self::Doctor => PROGRAM.into(),
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Ingress | Self::Workers => &[],
            Self::Up => &["up", "--random-ports", "--headless"],
            Self::Migrate => &["migrate"],
            Self::Doctor => &["doctor"],
        }
    }
}

/// What programs have told, and what none of them may tell.
#[derive(Default)]
struct Trial {
    canaries: Canaries,
    told: Vec<(String, Vec<u8>)>,
}

impl Trial {
    /// Runs a program that must refuse, and say so.
    fn refuses(&mut self, what: &str, command: &mut Command) {
        let Output {
            status,
            mut stdout,
            stderr,
        } = command.output().unwrap();
        stdout.extend(stderr);
        let text = String::from_utf8_lossy(&stdout);
        assert!(!status.success(), "{what}: {text}");
        assert!(!text.trim().is_empty(), "{what} without a word");
        self.told.push((what.to_owned(), stdout));
    }

    fn one(&mut self, sound: &Sound, kind: Kind, variable: &str, value: &str) {
        let mut command = sound.program(kind);
        let what = format!("{kind:?} with {variable}={value}");
        self.refuses(&what, command.env(variable, value));
    }

    /// Tries everything that is wrong with its settings on a kind of process.
    async fn of(kind: Kind) {
        let (sound, mut trial) = (Sound::make().await, Self::default());
        let known = format!(":{}", sound.closed);
        for (variable, addresses) in [
            ("DATABASE_URL", &BAD_DATABASES[..]),
            ("NATS_URL", &BAD_NATS),
        ] {
            for address in addresses {
                let secret = trial.canaries.plain(address);
                let address = address.replace(":P", &known).replace("SECRET", &secret);
                trial.one(&sound, kind, variable, &address);
            }
        }
        // Nobody is there.
        let nobody = format!("127.0.0.1:{}", sound.closed);
        for (variable, scheme) in [("DATABASE_URL", "postgres"), ("NATS_URL", "nats")] {
            let secret = trial.canaries.odd(variable);
            let address = with_user(&format!("{scheme}://{nobody}"), "user", &secret);
            trial.one(&sound, kind, variable, &address);
        }
        // Somebody is there, and knows another password.
        let wrong = trial.canaries.odd("wrong password of Postgres");
        let address = with_user(sound.db.url(), &Role::Ingress.name(sound.db.name()), &wrong);
        trial.one(&sound, kind, "DATABASE_URL", &address);
        let wrong = trial.canaries.odd("wrong password of NATS");
        let address = with_user(&sound.nats.url(), "ingress", &wrong);
        trial.one(&sound, kind, "NATS_URL", &address);
        if kind == Kind::Ingress {
            let secret = trial.canaries.plain("webhook secret");
            for text in [format!("whsec_{secret}%"), secret] {
                trial.one(&sound, kind, "ONSALE_GATEWAY_WEBHOOK_SECRETS", &text);
            }
        }
        if kind == Kind::Workers {
            let secret = trial.canaries.plain("gateway secret");
            trial.one(&sound, kind, "ONSALE_GATEWAY_SECRET", &secret);
            trial.one(&sound, kind, "ONSALE_GATEWAY_SECRET", &format!("{secret}:"));
            for url in [
                "https://u:SECRET@h",
                "http://SECRET@h",
                "SECRET://h",
                "https://h?SECRET",
                "http://SECRET.example",
            ] {
                let url = url.replace("SECRET", &secret);
                trial.one(&sound, kind, "ONSALE_GATEWAY_URL", &url);
            }
        }
        if kind == Kind::Ingress {
            for length in [24, 65] {
                let secret = trial.canaries.plain("token secret").repeat(3);
                trial.one(&sound, kind, "ONSALE_TOKEN_SECRET", &secret[..length]);
            }
        }
        trial.mistyped(&sound, kind);
        assert_silent(&trial.canaries, &trial.told);
    }

    /// An address where none belongs.
    fn mistyped(&mut self, sound: &Sound, kind: Kind) {
        let mut address = |what: &str| {
            let secret = self.canaries.plain(what);
            format!("postgres://user:{secret}@127.0.0.1:1/d")
        };
        let prefix = address("as a prefix");
        let lists = [
            vec![address("alone")],
            vec!["--databse-url".to_owned(), address("with a misspelt flag")],
            vec![format!("--databse-url={}", address("in a misspelt flag"))],
            vec!["--subject-prefix".to_owned(), address("at another flag")],
            vec![format!("--stream-replicas={}", address("as a number"))],
        ];
        for arguments in lists {
            let what = format!("{kind:?} {arguments:?}");
            self.refuses(&what, sound.program(kind).args(arguments));
        }
        if kind != Kind::Doctor {
            self.one(sound, kind, "ONSALE_SUBJECT_PREFIX", &prefix);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_can_not_start_tells_no_secret() {
    Trial::of(Kind::Ingress).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_can_not_start_tells_no_secret() {
    Trial::of(Kind::Workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_up_that_can_not_start_tells_no_secret() {
    Trial::of(Kind::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_can_not_start_tells_no_secret() {
    let mut trial = Trial::default();
    let scratch = Scratch::new("secrets").unwrap();
    let (good, bad) = (
        trial.canaries.plain("key"),
        trial.canaries.plain("webhook secret"),
    );
    let address = format!("127.0.0.1:{}", ports::free().unwrap());
    for (secret, webhook, addr) in [
        (format!("{good}:"), String::new(), address.as_str()),
        (good.clone(), format!("whsec_{bad}%"), &address),
        (good.clone(), bad, &address),
        (good, String::new(), "203.0.113.1:1"),
    ] {
        let mut command = Command::new(PROGRAM);
        command.arg("gateway").env_clear().envs(TALKATIVE);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("ONSALE_GATEWAY_DIR", scratch.path());
        command.env("ONSALE_GATEWAY_ADDR", addr);
        command.env("ONSALE_GATEWAY_SECRET", secret);
        if !webhook.is_empty() {
            command.env("ONSALE_GATEWAY_WEBHOOK_SECRETS", webhook);
        }
        trial.refuses("a gateway", &mut command);
    }
    assert_silent(&trial.canaries, &trial.told);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_can_not_run_tell_no_secret() {
    Trial::of(Kind::Migrate).await;
    Trial::of(Kind::Doctor).await;
}

//! How a process reads its settings: from flags and the environment, with everything that is wrong
//! said at once, and nothing secret ever said.
//!
//! A setting is declared once, in the `config.rs` of its process. What is secret hides its
//! environment value there (`hide_env_values`), and is never repeated here.

use clap::builder::{Resettable, ValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

/// The settings of a process.
pub trait Settings: CommandFactory + FromArgMatches {
    /// What is wrong with settings that are right one by one.
    fn contradictions(&self) -> Vec<Wrong> {
        Vec::new()
    }
}

/// Something that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which setting, with its value unless that is secret.
    pub setting: String,
    /// What.
    pub why: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.why)
    }
}

/// Why there are no settings.
#[derive(Debug)]
pub enum Refused {
    /// Help or the version was asked for.
    Asked(clap::Error),
    /// All that is wrong; not empty.
    Wrong(Vec<Wrong>),
}

/// Where a setting's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

/// A setting, as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The flag, with its dashes.
    pub flag: String,
    /// The environment variable.
    pub variable: String,
    /// The default, if there is one.
    pub default: Option<String>,
    /// Whether the process can't start without it.
    pub required: bool,
    /// Whether its value is never shown.
    pub secret: bool,
    /// The unit of its value; empty when it has none.
    pub unit: &'static str,
    /// What it means, and its bounds.
    pub help: String,
}

/// A setting, with the value that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Which.
    pub setting: Setting,
    /// Its value, for people to see; none when it is not set.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Option<Source>,
}

/// The settings of this process, by its command line and environment.
///
/// # Errors
/// With the exit status, when there are none: everything that is wrong was printed, or the help
/// that was asked for.
pub fn read<C: Settings>() -> Result<C, ExitCode> {
    try_read(std::env::args_os()).map_err(|refused| match refused {
        Refused::Asked(help) => {
            // Nothing can be done when standard output is closed.
            drop(help.print());
            ExitCode::SUCCESS
        }
        Refused::Wrong(wrong) => {
            eprint!("{}", complaint(C::command().get_name(), &wrong));
            ExitCode::from(2)
        }
    })
}

/// Logs the settings of this process that are not the default, without secrets.
pub fn log<C: Settings>() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let (all, _) = effective(&C::command(), &arguments);
    let set = all
        .into_iter()
        .filter(|one| one.source.is_some_and(|source| source != Source::Default));
    let set: Vec<String> = set
        .map(|one| format!("{}={}", one.setting.variable, one.value.unwrap_or_default()))
        .collect();
    tracing::info!(settings = set.join(" "), "starting");
}

/// What is printed when settings are wrong.
#[must_use]
pub fn complaint(program: &str, wrong: &[Wrong]) -> String {
    let count = match wrong.len() {
        1 => "a setting is wrong".to_owned(),
        count => format!("{count} settings are wrong"),
    };
    let list: String = wrong.iter().map(|wrong| format!("  {wrong}\n")).collect();
    format!("{program}: {count}\n{list}`{program} --help` lists all settings.\n")
}

/// The settings, by these arguments (the program's name first) and the environment.
///
/// # Errors
/// With everything that is wrong with them.
pub fn try_read<C: Settings>(arguments: impl IntoIterator<Item = OsString>) -> Result<C, Refused> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = C::command()
        .try_get_matches_from(&arguments)
        .and_then(|mut matches| C::from_arg_matches_mut(&mut matches));
    match parsed {
        Ok(settings) => match settings.contradictions() {
            none if none.is_empty() => Ok(settings),
            wrong => Err(Refused::Wrong(wrong)),
        },
        Err(error) if !error.use_stderr() => Err(Refused::Asked(error)),
        Err(error) => {
            let mut wrong = everything_wrong(&C::command(), &arguments);
            if wrong.is_empty() {
                wrong.push(of_command_line(&error));
            }
            Err(Refused::Wrong(wrong))
        }
    }
}

/// All settings of a process, in the order of their declaration.
#[must_use]
pub fn list(command: &Command) -> Vec<Setting> {
    settings_of(command).map(describe).collect()
}

/// The settings as a process with this command line and environment would take them, and what is
/// wrong with them one by one.
#[must_use]
pub fn effective(command: &Command, arguments: &[OsString]) -> (Vec<Effective>, Vec<Wrong>) {
    let matches = read_leniently(command, arguments);
    let all = settings_of(command).map(|arg| {
        let id = arg.get_id().as_str();
        let values = raw_values(&matches, id);
        let source = matches.value_source(id).and_then(|source| match source {
            ValueSource::DefaultValue => Some(Source::Default),
            ValueSource::EnvVariable => Some(Source::Environment),
            ValueSource::CommandLine => Some(Source::Flag),
            _ => None,
        });
        let setting = describe(arg);
        let value = (!values.is_empty()).then(|| shown(&values.join(","), setting.secret));
        Effective {
            setting,
            value,
            source,
        }
    });
    (all.collect(), everything_wrong(command, arguments))
}

/// Those that a process can be told by its environment; not `--help`.
fn settings_of(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| arg.get_env().is_some() && arg.get_long().is_some())
}

fn describe(arg: &Arg) -> Setting {
    let default: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let variable = arg.get_env().unwrap_or_default().to_string_lossy();
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let values: Vec<String> = match arg.is_hide_possible_values_set() {
        true => Vec::new(),
        false => arg
            .get_possible_values()
            .iter()
            .map(|v| v.get_name().to_owned())
            .collect(),
    };
    // The end of a doc comment's sentence does not come with it.
    let mut help = help.map_or_else(String::new, |help| format!("{help}."));
    if !values.is_empty() {
        help = format!("{help} One of: {}.", values.join(", "));
    }
    Setting {
        flag: format!("--{}", arg.get_long().unwrap_or_default()),
        unit: unit_of(&variable),
        variable: variable.into_owned(),
        required: arg.is_required_set() && default.is_empty(),
        default: (!default.is_empty()).then(|| default.join(",")),
        secret: arg.is_hide_env_values_set(),
        help,
    }
}

/// A setting's name ends with its unit.
fn unit_of(variable: &str) -> &'static str {
    let name = variable.strip_suffix("_MAX").unwrap_or(variable);
    match name {
        _ if name.ends_with("_PER_S") => "per second",
        _ if name.ends_with("_PER_MIN") => "per minute",
        _ if name.ends_with("_MS") => "milliseconds",
        _ if name.ends_with("_S") => "seconds",
        _ if name.ends_with("_HOURS") => "hours",
        _ if name.ends_with("_BYTES") => "bytes",
        _ => "",
    }
}

/// A value for people: of a secret no more than the address in it, if it has one; the same where an
/// address has got into a wrong place.
fn shown(value: &str, secret: bool) -> String {
    match without_credentials(value) {
        Some(address) => address,
        None if secret => "(set)".to_owned(),
        None => value.to_owned(),
    }
}

/// An address without what may be secret in it; none when it is no address. Before the last `@`
/// stand user and password, or a token, and anything may stand in a query. Where an `@` comes after
/// the beginning of a query, the password may as well have a `?` in it: then nothing is shown.
#[must_use]
pub fn without_credentials(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (place, query) = rest.split_once(['?', '#']).unwrap_or((rest, ""));
    Some(match place.rsplit_once('@') {
        _ if query.contains('@') => format!("{scheme}://***"),
        Some((_, place)) => format!("{scheme}://***@{place}"),
        None => format!("{scheme}://{place}"),
    })
}

/// The same command, which takes any values.
fn lenient(command: &Command) -> Command {
    command.clone().ignore_errors(true).mut_args(|arg| {
        let arg = arg.required(false);
        match arg.get_action() {
            ArgAction::Set | ArgAction::Append => arg.value_parser(ValueParser::os_string()),
            _ => arg,
        }
    })
}

fn read_leniently(command: &Command, arguments: &[OsString]) -> ArgMatches {
    lenient(command).get_matches_from(arguments)
}

fn raw_values(matches: &ArgMatches, id: &str) -> Vec<String> {
    let values = matches.get_raw(id).into_iter().flatten();
    values
        .map(|value| value.to_string_lossy().into_owned())
        .collect()
}

fn everything_wrong(command: &Command, arguments: &[OsString]) -> Vec<Wrong> {
    let matches = read_leniently(command, arguments);
    let mut wrong = Vec::new();
    if let Err(error) = lenient(command)
        .ignore_errors(false)
        .try_get_matches_from(arguments)
    {
        wrong.push(of_command_line(&error));
    }
    for arg in settings_of(command) {
        let id = arg.get_id().as_str();
        let values = raw_values(&matches, id);
        let setting = describe(arg);
        let from = |value: Option<&str>| match (value, matches.value_source(id)) {
            (Some(value), Some(ValueSource::EnvVariable)) => {
                let value = shown(value, false);
                format!("{}={value} ({})", setting.variable, setting.flag)
            }
            (Some(value), Some(_)) => {
                let value = shown(value, false);
                format!("{} {value} ({})", setting.flag, setting.variable)
            }
            (Some(_) | None, _) => format!("{} ({})", setting.variable, setting.flag),
        };
        if values.is_empty() {
            if setting.required {
                wrong.push(Wrong {
                    setting: from(None),
                    why: "must be set".to_owned(),
                });
            }
            continue;
        }
        let bad = values
            .iter()
            .find_map(|value| Some((value, refusal(arg, value)?)));
        if let Some((value, why)) = bad {
            wrong.push(Wrong {
                setting: from((!setting.secret).then_some(value.as_str())),
                why,
            });
        }
    }
    wrong
}

/// Why a setting doesn't take this value, if it does not.
fn refusal(arg: &Arg, value: &str) -> Option<String> {
    if !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
        return None;
    }
    let name = arg.get_long()?;
    let alone = arg.clone().required(false).env(Resettable::Reset);
    let read = Command::new("setting")
        .no_binary_name(true)
        .arg(alone)
        .try_get_matches_from([format!("--{name}={value}")]);
    read.err().map(|error| why(&error))
}

/// What is wrong with a value; without the value, which may be secret.
fn why(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("must be one of {}", valid.join(", "))
        }
        _ => "is no such value".to_owned(),
    }
}

/// An argument that is no setting, or a flag without its value.
fn of_command_line(error: &clap::Error) -> Wrong {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => shown(argument, false),
        _ => "command line".to_owned(),
    };
    Wrong {
        setting: argument,
        why: error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
    enum Colour {
        Red,
        Blue,
    }

    /// A process.
    #[derive(Parser, Debug)]
    #[command(name = "onsale-test")]
    struct Sample {
        /// Where it is.
        #[arg(long, env = "ONSALE_TEST_SETTINGS_URL", hide_env_values = true)]
        url: String,
        /// How long it lasts.
        #[arg(long, env = "ONSALE_TEST_SETTINGS_TTL_MS", default_value_t = 5,
              value_parser = clap::value_parser!(u64).range(1..=10))]
        ttl_ms: u64,
        /// What key opens it.
        #[arg(long, env = "ONSALE_TEST_SETTINGS_KEY", hide_env_values = true)]
        key: Option<std::num::NonZeroU8>,
        /// How it looks.
        #[arg(long, env = "ONSALE_TEST_SETTINGS_COLOUR", value_enum, value_delimiter = ',',
              default_values_t = [Colour::Red, Colour::Blue])]
        colour: Vec<Colour>,
    }

    impl Settings for Sample {
        fn contradictions(&self) -> Vec<Wrong> {
            let both = self.ttl_ms == 10 && self.colour == [Colour::Red];
            let wrong = Wrong {
                setting: "--ttl-ms and --colour".into(),
                why: "don't go together".into(),
            };
            both.then_some(wrong).into_iter().collect()
        }
    }

    fn arguments(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn wrong(text: &str) -> Vec<String> {
        match try_read::<Sample>(arguments(text)) {
            Err(Refused::Wrong(wrong)) => wrong.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_right_is_read() {
        let sample: Sample = try_read(arguments("x --url u --colour blue")).unwrap();
        assert_eq!((sample.ttl_ms, sample.colour), (5, vec![Colour::Blue]));
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        assert_eq!(
            wrong("x --ttl-ms 11 --key 0 --colour red,green --size 3"),
            [
                "--size: unexpected argument found",
                "ONSALE_TEST_SETTINGS_URL (--url): must be set",
                "--ttl-ms 11 (ONSALE_TEST_SETTINGS_TTL_MS): 11 is not in 1..=10",
                "ONSALE_TEST_SETTINGS_KEY (--key): number would be zero for non-zero type",
                "--colour green (ONSALE_TEST_SETTINGS_COLOUR): must be one of red, blue",
            ]
        );
        assert_eq!(
            wrong("x --url").len(),
            2,
            "a value is missing, and so is the setting"
        );
    }

    #[test]
    fn contradictions_count_when_all_else_is_right() {
        assert_eq!(
            wrong("x --url u --ttl-ms 10 --colour red"),
            ["--ttl-ms and --colour: don't go together"]
        );
    }

    #[test]
    fn help_is_no_mistake() {
        let asked = try_read::<Sample>(arguments("x --help --ttl-ms 0"));
        assert!(matches!(asked, Err(Refused::Asked(_))), "{asked:?}");
    }

    #[test]
    fn settings_are_listed_and_shown_without_secrets() {
        let command = Sample::command();
        let ttl = &list(&command)[1];
        assert_eq!(
            (ttl.unit, ttl.default.as_deref()),
            ("milliseconds", Some("5"))
        );
        assert!(list(&command)[0].required);
        let given = arguments("x --url postgres://u:canary@h/d?p=canary --key 7 --ttl-ms 12");
        let (all, wrong) = effective(&command, &given);
        let values: Vec<_> = all.iter().map(|one| one.value.as_deref()).collect();
        let expected = ["postgres://***@h/d", "12", "(set)", "red,blue"].map(Some);
        assert_eq!(values, expected);
        assert_eq!(all[3].source, Some(Source::Default));
        assert_eq!(wrong.len(), 1);
        assert!(!format!("{all:?}{wrong:?}").contains("canary"));
    }

    #[test]
    fn addresses_lose_their_credentials() {
        for (url, shown) in [
            ("postgres://h/d", Some("postgres://h/d")),
            ("postgres://u:p@ss@h:1/d", Some("postgres://***@h:1/d")),
            ("nats://token@h", Some("nats://***@h")),
            ("nats://h?x=y", Some("nats://h")),
            ("postgres://u:p?a@h/d", Some("postgres://***")),
            ("postgres://u:p@a#s@h/d", Some("postgres://***")),
            ("secret", None),
        ] {
            assert_eq!(without_credentials(url).as_deref(), shown, "{url}");
        }
    }
}

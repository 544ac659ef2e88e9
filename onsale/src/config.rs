//! `onsale config`: which settings there are, and which ones a process would take here.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args as ClapArgs, Command, CommandFactory, ValueEnum};
use onsale_platform::settings::{self, Effective, Setting, Source, Wrong};
use serde_json::json;

/// Prints the settings that an ingress and a worker process would take from this environment.
///
/// Secrets are never shown, only whether they are set. Exits 1 when a process could not start with
/// them, and says everything that is wrong.
#[derive(ClapArgs, Debug)]
#[command(max_term_width = 100)]
pub struct Args {
    /// Only this process.
    #[arg(value_enum)]
    process: Option<Process>,

    /// Only what is not the default.
    #[arg(long)]
    changed: bool,

    /// Print one JSON object instead of the list.
    #[arg(long, conflicts_with = "reference")]
    json: bool,

    /// Print what every setting means, as a Markdown page, instead of the values.
    #[arg(long, conflicts_with = "changed")]
    reference: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Process {
    /// HTTP in, commands out.
    Ingress,
    /// Decides, pays, sweeps, publishes.
    Workers,
}

impl Process {
    fn command(self) -> Command {
        match self {
            Self::Ingress => onsale_ingress::Config::command(),
            Self::Workers => onsale_workers::Config::command(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Workers => "workers",
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (text, sound) = match args.reference {
        true => (reference(), true),
        false => values(args),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What is printed of the values, and whether the processes could start with them.
fn values(args: &Args) -> (String, bool) {
    let processes = match args.process {
        Some(process) => vec![process],
        None => vec![Process::Ingress, Process::Workers],
    };
    let (mut documents, mut pages) = (serde_json::Map::new(), String::new());
    let mut sound = true;
    for process in processes {
        let command = process.command();
        let program = OsString::from(command.get_name());
        let (mut all, wrong) = settings::effective(&command, &[program]);
        sound &= wrong.is_empty();
        if args.changed {
            all.retain(|one| one.source.is_some_and(|source| source != Source::Default));
        }
        if args.json {
            documents.insert(process.name().to_owned(), document(&all, &wrong));
        } else {
            pages.push_str(&page(process, &all, &wrong));
        }
    }
    if args.json {
        pages = format!("{}\n", serde_json::Value::Object(documents));
    }
    (pages, sound)
}

fn source_name(source: Option<Source>) -> &'static str {
    match source {
        None => "",
        Some(Source::Default) => "default",
        Some(Source::Environment) => "environment",
        Some(Source::Flag) => "flag",
    }
}

fn document(all: &[Effective], wrong: &[Wrong]) -> serde_json::Value {
    let settings = all.iter().map(|one| {
        let value = json!({
            "value": one.value,
            "source": one.source.map(|source| source_name(Some(source))),
        });
        (one.setting.variable.clone(), value)
    });
    let wrong = wrong
        .iter()
        .map(|wrong| json!({ "setting": wrong.setting, "why": wrong.why }));
    json!({
        "settings": settings.collect::<serde_json::Map<_, _>>(),
        "wrong": wrong.collect::<Vec<_>>(),
    })
}

fn page(process: Process, all: &[Effective], wrong: &[Wrong]) -> String {
    let mut page = format!("{}\n", process.name());
    for one in all {
        let value = one.value.as_deref().unwrap_or("(not set)");
        let source = match one.source {
            Some(Source::Environment) => "  from the environment",
            Some(Source::Default | Source::Flag) | None => "",
        };
        writeln!(page, "  {:<34} {value}{source}", one.setting.variable)
            .expect("writing to a string can't fail");
    }
    for wrong in wrong {
        writeln!(page, "  WRONG  {wrong}").expect("writing to a string can't fail");
    }
    page.push('\n');
    page
}

/// The page that lists all settings; `deploy/SETTINGS.md` is it.
#[must_use]
pub fn reference() -> String {
    let of = |process: Process| settings::list(&process.command());
    let (ingress, workers) = (of(Process::Ingress), of(Process::Workers));
    let shared: Vec<&Setting> = ingress.iter().filter(|one| workers.contains(one)).collect();
    let own = |all: &'static str, list: &[Setting]| {
        let own = list.iter().filter(|one| !shared.contains(one));
        section(all, own)
    };
    let mut page = String::from(
        "# Settings\n\nMade by `onsale config --reference`; a test holds it up to date. Each setting \
         is an environment\nvariable or a flag, which counts more. What is wrong is said at the \
         start, all at once. `onsale config`\nprints what a process would take here.\n",
    );
    page.push_str(&section("Every process", shared.iter().copied()));
    page.push_str(&own("Ingress", &ingress));
    page.push_str(&own("Workers", &workers));
    page
}

fn section<'a>(title: &str, settings: impl Iterator<Item = &'a Setting>) -> String {
    let mut text = format!(
        "\n## {title}\n\n| variable | flag | default | unit | meaning |\n|---|---|---|---|---|\n"
    );
    for one in settings {
        let default = match (&one.default, one.required) {
            (Some(default), _) if default.is_empty() => "empty".to_owned(),
            (Some(default), _) => format!("`{default}`"),
            (None, true) => "must be set".to_owned(),
            (None, false) => "none".to_owned(),
        };
        let secret = if one.secret {
            " Secret: never shown."
        } else {
            ""
        };
        let help = one.help.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(
            text,
            "| `{}` | `{}` | {default} | {} | {}{secret} |",
            one.variable,
            one.flag,
            one.unit,
            help.replace('|', "\\|"),
        )
        .expect("writing to a string can't fail");
    }
    text
}

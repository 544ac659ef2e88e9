//! Who may say and hear what on NATS: a user per kind of process.
//!
//! This is the only list of these rights; `onsale up`, the tests and `deploy/nats-users.conf` take
//! them from here. Nobody may purge or delete a stream or delete a message: what was ordered stays
//! ordered, with one exception.
//!
//! The operator may change a stream, because `onsale migrate` has to when a setting of it changes
//! (replicas, bytes), and NATS can't say which changes a user may make: the same request with a
//! smaller bound drops the oldest messages, and another closes the stream for good. So the operator's
//! password is as much a secret as that of the database's owner. What was decided is in Postgres and
//! stays; what was not had been promised to nobody.

//!
//! Whoever may ask JetStream something names the subject of the answer, and whoever may make a consumer
//! the subject of what it delivers; the server sends there itself, whatever the rights. So who may read
//! the events can have facts and the server's answers, though nothing of his own, put on the subject of
//! commands. There they are no commands and become dead letters, but they fill a stream and take the
//! owners' time: `consumer` is for systems that are trusted. An account of its own for it would not
//! change that, because what a consumer delivers stays in the account of its stream.

use onsale_schema::Lane;
use onsale_schema::subjects::Subjects;

/// A kind of process, as NATS knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// Publishes commands and hears replies.
    Ingress,
    /// Read commands, and publish what came of them.
    Workers,
    /// The `onsale` command: keeps the streams and looks at them.
    Operator,
    /// Another system, one that is trusted: reads facts from the events stream, and nothing else.
    Consumer,
}

impl User {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ingress, Self::Workers, Self::Operator, Self::Consumer];

    /// The kind of process.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Workers => "workers",
            Self::Operator => "operator",
            Self::Consumer => "consumer",
        }
    }

    /// What the user is called where subjects have this prefix: `ingress`, or `prefix_ingress`.
    #[must_use]
    pub fn name(self, subjects: &Subjects) -> String {
        subjects.user(self.as_str())
    }
}

/// Where a user gets its answers: nobody else may listen there.
#[must_use]
pub fn inbox_prefix(user: &str) -> String {
    format!("_INBOX.{user}")
}

/// The subjects that a user may publish to and subscribe to; nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// To publish to.
    pub publish: Vec<String>,
    /// To subscribe to.
    pub subscribe: Vec<String>,
}

/// The rights of a user.
#[must_use]
pub fn rights(user: User, subjects: &Subjects) -> Rights {
    let mut publish = Vec::new();
    let mut subscribe = vec![format!("{}.>", inbox_prefix(&user.name(subjects)))];
    let streams = || Lane::ALL.map(|lane| subjects.stream(lane));
    match user {
        User::Ingress => {
            // Its acknowledgements come to its inbox; of JetStream it needs nothing else.
            publish.extend(Lane::ALL.map(|lane| subjects.lane_filter(lane)));
            publish.push(subjects.revocations());
            subscribe.extend([
                subjects.all_replies(),
                subjects.lags(),
                subjects.maps(),
                subjects.watermarks(),
                subjects.revocations(),
            ]);
        }
        User::Workers => {
            publish.extend([
                // Expiries and notices are commands, too.
                subjects.lane_filter(Lane::Seats),
                subjects.lane_filter(Lane::Admission),
                subjects.all_replies(),
                subjects.lags(),
                subjects.maps(),
                subjects.watermarks(),
                subjects.nudges(),
                subjects.events_filter(),
            ]);
            for stream in streams() {
                publish.push(api("STREAM.CREATE", &stream));
                publish.extend(reading(&stream));
            }
            publish.extend([
                api("STREAM.CREATE", &subjects.events_stream()),
                // Whether it has lost anything.
                api("STREAM.INFO", &subjects.events_stream()),
            ]);
            for queue in [Lane::Ledger, Lane::Settlement] {
                publish.push(format!("$JS.ACK.{}.>", subjects.stream(queue)));
            }
            subscribe.push(subjects.nudges());
        }
        User::Operator => {
            for stream in streams().into_iter().chain([subjects.events_stream()]) {
                publish.push(api("STREAM.CREATE", &stream));
                // Can't be had any narrower; see above.
                publish.push(api("STREAM.UPDATE", &stream));
            }
            // What looks into a queue would take from it.
            for lane in Lane::partitioned() {
                publish.extend(reading(&subjects.stream(lane)));
            }
            publish.extend(reading(&subjects.events_stream()));
            publish.extend([
                api("STREAM.INFO", &subjects.stream(Lane::Ledger)),
                api("STREAM.INFO", &subjects.stream(Lane::Settlement)),
            ]);
        }
        User::Consumer => {
            let events = subjects.events_stream();
            publish.extend(reading(&events));
            // A durable consumer is looked for, and acknowledges.
            publish.push(format!("{}.*", api("CONSUMER.INFO", &events)));
            publish.push(format!("$JS.ACK.{events}.>"));
        }
    }
    Rights { publish, subscribe }
}

fn api(request: &str, stream: &str) -> String {
    format!("$JS.API.{request}.{stream}")
}

/// All that it takes to read a stream.
fn reading(stream: &str) -> Vec<String> {
    let mut subjects = vec![
        api("STREAM.INFO", stream),
        api("STREAM.MSG.GET", stream),
        api("DIRECT.GET", stream),
    ];
    for request in ["CONSUMER.CREATE", "CONSUMER.MSG.NEXT"] {
        subjects.push(format!("{}.>", api(request, stream)));
    }
    subjects.push(api("CONSUMER.CREATE", stream));
    subjects
}

/// The `authorization` block of a nats-server's configuration. `password` is asked for the words
/// that stand for a user's password there: the password in quotes, or a `$VARIABLE`.
#[must_use]
pub fn authorization(subjects: &Subjects, password: impl Fn(User) -> String) -> String {
    let users: String = User::ALL
        .map(|user| {
            let Rights { publish, subscribe } = rights(user, subjects);
            format!(
                "    {{\n      user: \"{}\"\n      password: {}\n      permissions: {{\n        \
                 publish: {{ allow: {} }}\n        subscribe: {{ allow: {} }}\n      }}\n    }}\n",
                user.name(subjects),
                password(user),
                list(&publish),
                list(&subscribe)
            )
        })
        .concat();
    format!("authorization {{\n  users: [\n{users}  ]\n}}\n")
}

fn list(subjects: &[String]) -> String {
    let lines: String = subjects
        .iter()
        .map(|subject| format!("          \"{subject}\"\n"))
        .collect();
    format!("[\n{lines}        ]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_a_right_that_ends_what_was_ordered() {
        for prefix in ["", "t1"] {
            let subjects = Subjects::new(prefix).unwrap();
            for user in User::ALL {
                for subject in rights(user, &subjects).publish {
                    let wide = subject.starts_with(['*', '>'])
                        || subject == "$JS.>"
                        || subject == "$JS.API.>"
                        || subject.contains("API.STREAM.*");
                    let destroys = ["PURGE", "DELETE", "SEAL", "RESTORE", "LEADER"]
                        .iter()
                        .any(|verb| subject.contains(verb));
                    assert!(!wide && !destroys, "{user:?} may publish to {subject}");
                }
            }
        }
    }
}

//! split, merge, repartition and migrate; operations.

use crate::arguments::{Merge, Migrate, Order, Place, Repartition, Side, Split};
use crate::output::{Output, cell};
use crate::remote::{Remote, encoded};
use crate::ring::{ask, confirm, list, order, range};
use crate::{Exit, Failure};
use indicatif::{ProgressBar, ProgressStyle};
use scatter_client::Key;
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

/// How often the progress of a migration is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn split(remote: &Remote, output: &Output, arguments: Split) -> Result<(), Failure> {
    let at = arguments.place.position()?;
    let body = body(&arguments.order, [("at", at.map(Value::String))]);
    let path = path(&arguments.group, "split");
    // Nothing is lost by a split, and a merge undoes it: nobody is asked.
    if arguments.order.dry_run {
        let plan = ask(remote, remote.order(&format!("{path}?dry_run=true"), &body)).await?;
        return show(output, &plan, &in_words(&plan));
    }
    let done = order(remote, remote.order(&path, &body)).await?;
    show(output, &done, &format!("done: the new group is {}", cell(&done["child"])))
}

pub(crate) async fn merge(remote: &Remote, output: &Output, arguments: Merge) -> Result<(), Failure> {
    let body = body(&arguments.order, [("side", arguments.side.map(side))]);
    reshape(remote, output, &path(&arguments.group, "merge"), body, &arguments.order).await
}

pub(crate) async fn repartition(remote: &Remote, output: &Output, arguments: Repartition) -> Result<(), Failure> {
    let boundary = arguments.place.position()?.map(Value::String);
    let body = body(&arguments.order, [("boundary", boundary), ("side", arguments.side.map(side))]);
    reshape(remote, output, &path(&arguments.group, "repartition"), body, &arguments.order).await
}

/// Shows what an order would do, asks, and gives it.
async fn reshape(
    remote: &Remote,
    output: &Output,
    path: &str,
    mut body: Value,
    options: &Order,
) -> Result<(), Failure> {
    if options.dry_run || !options.yes {
        let plan = ask(remote, remote.order(&format!("{path}?dry_run=true"), &body)).await?;
        if options.dry_run {
            return show(output, &plan, &in_words(&plan));
        }
        confirm(&format!("This is what would be done: {}.", in_words(&plan)))?;
        body = for_version(body, &plan, "range_version");
    }
    let done = order(remote, remote.order(path, &body)).await?;
    show(output, &done, "done")
}

/// An order for the group as it was shown: if it has changed meanwhile, nothing is done.
pub(crate) fn for_version(mut body: Value, plan: &Value, name: &str) -> Value {
    // An admin program of an earlier release does not say it.
    if let Some(version) = plan.get(name) {
        body[name] = version.clone();
    }
    body
}

/// The body of an order for other members.
pub(crate) fn members_body(add: &[String], remove: &[String], version: Option<u64>) -> Value {
    let mut body = json!({ "add": add, "remove": remove });
    if let Some(version) = version {
        body["configuration_version"] = version.into();
    }
    body
}

/// Moves replicas of a group from some nodes to others, and shows how far the newcomers are.
pub(crate) async fn migrate(remote: &Remote, output: &Output, arguments: Migrate) -> Result<(), Failure> {
    let members = path(&arguments.group, "members");
    let body = members_body(&arguments.add, &arguments.remove, arguments.configuration_version);
    let plan = ask(remote, remote.order(&format!("{members}?dry_run=true"), &body)).await?;
    let after: Vec<_> = list(&plan, "members").iter().map(cell).collect();
    if arguments.dry_run {
        return show(output, &plan, &format!("the members would be {}", after.join(" ")));
    }
    if !arguments.yes {
        confirm(&format!("Group {} would then have the members {}.", cell(&plan["group"]), after.join(" ")))?;
    }
    let added: Vec<String> = list(&plan, "add").iter().map(cell).collect();
    let bar = progress_bar();
    let body = for_version(body, &plan, "configuration_version");
    let ordered = order(remote, remote.order(&members, &body));
    let watched = watch(remote, &arguments.group, &added, &bar);
    let done = tokio::select! {
        done = ordered => done,
        never = watched => match never {},
    };
    bar.finish_and_clear();
    show(output, &done?, "done")
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} entries {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Shows how far the newcomer that is furthest behind has come, until nobody asks any more.
async fn watch(remote: &Remote, group: &str, added: &[String], bar: &ProgressBar) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let asked = remote.question(&format!("/v1/groups/{}", encoded(group.as_bytes())));
        // It only shows: who cannot be asked is asked again.
        let Ok(found) = ask(remote, asked).await else { continue };
        let replicas = list(&found, "replicas");
        let decided = replicas.iter().filter_map(|replica| replica["decided"].as_u64()).max().unwrap_or(0);
        let of = |node: &String| {
            let replica = replicas.iter().find(|replica| replica["node"].as_str() == Some(node));
            replica.and_then(|replica| replica["applied"].as_u64()).unwrap_or(0)
        };
        bar.set_length(decided);
        bar.set_position(added.iter().map(of).min().unwrap_or(decided));
        bar.set_message(match list(&found, "members").iter().filter(|member| member["role"] == "learner").count() {
            0 => "",
            1 => "(1 member learns)",
            _ => "(several members learn)",
        });
    }
}

pub(crate) async fn operations(remote: &Remote, output: &Output) -> Result<(), Failure> {
    let found = ask(remote, remote.question("/v1/operations")).await?;
    if output.is_json() {
        return output.json(&found);
    }
    let row = |entry: &Value| {
        let text = |name: &&str| cell(&entry[name]);
        let mut row: Vec<String> = ["id", "kind", "group"].iter().map(text).collect();
        row.push(nodes_of(entry));
        row.extend(["origin", "state", "operation", "reason"].iter().map(text));
        row
    };
    let rows: Vec<Vec<String>> = list(&found, "operations").iter().map(row).collect();
    output.table(&["number", "kind", "group", "nodes", "origin", "state", "operation", "reason"], &rows)
}

/// The nodes that an operation concerns: who comes, who goes, who is to lead, who is drained.
fn nodes_of(entry: &Value) -> String {
    let detail = &entry["detail"];
    // What a policy decided has its parts one level deeper; beside them stands the node that decided it.
    let (ordered, own) =
        if detail["action"].is_object() { (&detail["action"], &Value::Null) } else { (detail, &detail["node"]) };
    let all = |name: &str, sign: &str| {
        list(ordered, name).iter().map(|node| format!("{sign}{}", cell(node))).collect::<Vec<_>>()
    };
    let mut nodes = all("add", "+");
    nodes.extend(all("remove", "-"));
    let heirs = list(detail, "changes").iter().map(|change| &change["replaced_by"]).filter(|heir| heir.is_string());
    nodes.extend(heirs.map(|heir| format!("+{}", cell(heir))));
    nodes.extend([&ordered["to"], own].into_iter().filter(|node| node.is_string()).map(cell));
    if nodes.is_empty() { "-".to_owned() } else { nodes.join(" ") }
}

impl Place {
    /// The position in hexadecimal, if one was given.
    fn position(&self) -> Result<Option<String>, Failure> {
        let Some(key) = &self.key else { return Ok(self.at.clone()) };
        let key = Key::new(key.as_bytes().to_vec()).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        Ok(Some(key.position().to_string()))
    }
}

fn side(side: Side) -> Value {
    match side {
        Side::Successor => "successor".into(),
        Side::Predecessor => "predecessor".into(),
    }
}

fn path(group: &str, what: &str) -> String {
    format!("/v1/groups/{}/{what}", encoded(group.as_bytes()))
}

/// The members that were given.
fn body<const COUNT: usize>(order: &Order, members: [(&str, Option<Value>); COUNT]) -> Value {
    let version = ("range_version", order.range_version.map(Value::from));
    let given = members.into_iter().chain([version]).filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect())
}

/// What a plan would lead to.
fn in_words(plan: &Value) -> String {
    let result = &plan["result"];
    let group = |name: &str| cell(&result[name]);
    match result["operation"].as_str() {
        Some("split") => format!(
            "group {} would keep {}, and a new group would own {}",
            group("group"),
            range(&result["lower"]),
            range(&result["upper"])
        ),
        Some("merge") => format!(
            "group {} would take over all of group {}, which would end, and own {}",
            group("gainer"),
            group("loser"),
            range(&result["range"])
        ),
        Some("repartition") => format!(
            "group {} would take over {} from group {} and own {}",
            group("gainer"),
            range(&result["moving"]),
            group("loser"),
            range(&result["range"])
        ),
        Some(_) | None => result.to_string(),
    }
}

fn show(output: &Output, value: &Value, words: &str) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(value);
    }
    output.line(words)
}

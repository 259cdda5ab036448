//! ring, groups, nodes, lookup; members and transfer-leader.

use crate::arguments::{Groups, Lookup, Members, NodeOrder, Recover, Ring, TransferLeader};
use crate::output::{Output, cell, talk};
use crate::remote::{Effect, Remote, encoded};
use crate::reshape::{for_version, members_body};
use crate::{Exit, Failure};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::io::IsTerminal as _;
use std::os::unix::ffi::OsStrExt as _;

pub(crate) async fn ring(remote: &Remote, output: &Output, arguments: Ring) -> Result<(), Failure> {
    let ring = ask(remote, remote.question("/v1/ring")).await?;
    let problems = list(&ring, "problems");
    if output.is_json() {
        output.json(&ring)?;
    } else {
        output.table(&GROUP_HEAD, &group_rows(list(&ring, "groups")))?;
        for problem in problems {
            output.line(&format!("problem: {} ({})", cell(&problem["text"]), cell(&problem["kind"])))?;
        }
        if problems.is_empty() {
            talk("nothing is wrong");
        }
    }
    if arguments.check && !problems.is_empty() {
        let things = if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
        return Err(Failure::new(Exit::Error, format!("the ring has {things}")));
    }
    Ok(())
}

pub(crate) async fn groups(remote: &Remote, output: &Output, arguments: Groups) -> Result<(), Failure> {
    let Some(id) = arguments.group else {
        let ring = ask(remote, remote.question("/v1/ring")).await?;
        if output.is_json() {
            return output.json(&json!({ "groups": ring["groups"] }));
        }
        return output.table(&GROUP_HEAD, &group_rows(list(&ring, "groups")));
    };
    let group = ask(remote, remote.question(&format!("/v1/groups/{}", encoded(id.as_bytes())))).await?;
    if output.is_json() {
        return output.json(&group);
    }
    output.table(&GROUP_HEAD, &group_rows(std::slice::from_ref(&group)))?;
    output.line("")?;
    let replica = |replica: &Value| {
        ["node", "role", "ballot", "decided", "applied", "range_version"]
            .iter()
            .map(|name| cell(&replica[name]))
            .collect()
    };
    let rows: Vec<Vec<String>> = list(&group, "replicas").iter().map(replica).collect();
    output.table(&["replica on", "role", "ballot", "decided", "applied", "range version"], &rows)?;
    for problem in list(&group, "problems") {
        output.line(&format!("problem: {}", cell(&problem["text"])))?;
    }
    Ok(())
}

pub(crate) async fn nodes(remote: &Remote, output: &Output) -> Result<(), Failure> {
    let nodes = ask(remote, remote.question("/v1/nodes")).await?;
    if output.is_json() {
        return output.json(&nodes);
    }
    let row = |node: &Value| {
        let replicas = list(node, "replicas").iter();
        let replicas: Vec<_> =
            replicas.map(|replica| format!("{}:{}", cell(&replica["group"]), cell(&replica["role"]))).collect();
        let mut row: Vec<String> =
            ["id", "state", "zone", "peer", "http"].iter().map(|name| cell(&node[name])).collect();
        row.push(if replicas.is_empty() { "-".into() } else { replicas.join(" ") });
        row
    };
    let rows: Vec<Vec<String>> = list(&nodes, "nodes").iter().map(row).collect();
    output.table(&["node", "state", "zone", "peer", "http", "replicas"], &rows)
}

pub(crate) async fn lookup(remote: &Remote, output: &Output, arguments: Lookup) -> Result<(), Failure> {
    let key = encoded(arguments.key.as_bytes());
    let found = ask(remote, remote.question(&format!("/v1/lookup?key={key}"))).await?;
    if output.is_json() {
        return output.json(&found);
    }
    let members: Vec<_> = list(&found, "members").iter().map(|member| cell(&member["node"])).collect();
    let names = ["partition", "position", "group", "leader", "hops"];
    let mut rows: Vec<_> = names.iter().map(|name| vec![(*name).to_owned(), cell(&found[name])]).collect();
    rows.push(vec!["members".into(), members.join(" ")]);
    output.table(&["of the key", "is"], &rows)
}

pub(crate) async fn members(remote: &Remote, output: &Output, arguments: Members) -> Result<(), Failure> {
    let path = format!("/v1/groups/{}/members", encoded(arguments.group.as_bytes()));
    let body = members_body(&arguments.add, &arguments.remove, arguments.configuration_version);
    let plan = ask(remote, remote.order(&format!("{path}?dry_run=true"), &body)).await?;
    if arguments.dry_run {
        return show_plan(output, &plan);
    }
    if !arguments.yes {
        let after: Vec<_> = list(&plan, "members").iter().map(cell).collect();
        confirm(&format!("Group {} would then have the members {}.", cell(&plan["group"]), after.join(" ")))?;
    }
    let body = for_version(body, &plan, "configuration_version");
    let done = order(remote, remote.order(&path, &body)).await?;
    if output.is_json() { output.json(&done) } else { output.line("done") }
}

fn show_plan(output: &Output, plan: &Value) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(plan);
    }
    let after: Vec<_> = list(plan, "members").iter().map(cell).collect();
    output.line(&format!("the members would be {}", after.join(" ")))
}

/// Asks on the terminal. Without one nobody can say yes.
pub(crate) fn confirm(what: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "this changes who holds data or owns keys; give --yes where nobody can be asked",
        ));
    }
    talk(&format!("{what} Go on? Type yes:"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "yes") { Ok(()) } else { Err(Failure::new(Exit::Error, "nothing was done")) }
}

/// An order about a node.
pub(crate) async fn order_node(
    remote: &Remote,
    output: &Output,
    arguments: NodeOrder,
    what: &str,
) -> Result<(), Failure> {
    let path = format!("/v1/nodes/{}/{what}", encoded(arguments.node.as_bytes()));
    let plan = ask(remote, remote.order(&format!("{path}?dry_run=true"), &json!({}))).await?;
    let count = list(&plan, "groups").len() + list(&plan, "changes").len();
    if arguments.dry_run {
        if output.is_json() {
            return output.json(&plan);
        }
        output.line(&format!("{count} groups have a member there"))?;
        for group in list(&plan, "groups") {
            output.line(&cell(group))?;
        }
        for change in list(&plan, "changes") {
            let heir = match &change["replaced_by"] {
                Value::Null => "nobody: it has one member less".to_owned(),
                node => cell(node),
            };
            output.line(&format!("{}, there replaced by {heir}", cell(&change["group"])))?;
        }
        return Ok(());
    }
    if !arguments.yes && what != "undrain" {
        confirm(&format!("The members of {count} groups would change ({what} {}).", cell(&plan["node"])))?;
    }
    let done = order(remote, remote.order(&path, &json!({}))).await?;
    if output.is_json() {
        return output.json(&done);
    }
    output.line(if what == "drain" { "ordered; `scatterctl nodes` shows how far it is" } else { "done" })
}

/// An unsafe recovery: shows what may be lost, asks, and orders it.
pub(crate) async fn recover(remote: &Remote, output: &Output, arguments: Recover) -> Result<(), Failure> {
    if !arguments.is_unsafe && !arguments.dry_run {
        let text = "a recovery may lose acknowledged writes: say --unsafe, or --dry-run to see what may be lost";
        return Err(Failure::new(Exit::Usage, text));
    }
    let survivors = (!arguments.survivor.is_empty()).then_some(&arguments.survivor);
    let mut body = json!({ "group": arguments.group });
    if let Some(survivors) = survivors {
        body["survivors"] = json!(survivors);
    }
    let plan = ask(remote, remote.order("/v1/recover?dry_run=true", &body)).await?;
    let names = |name| list(&plan, name).iter().map(cell).collect::<Vec<_>>().join(" ");
    let (survivors, condemned) = (names("survivors"), names("condemned"));
    let lost = cell(&plan["may_be_lost"]);
    if arguments.dry_run {
        if output.is_json() {
            return output.json(&plan);
        }
        return output.line(&format!("survivors: {survivors}\ncondemned: {condemned}\nmay be lost: {lost}"));
    }
    if !arguments.yes {
        confirm(&format!(
            "The group would go on with {survivors}. Nobody would ever listen to {condemned} again. May be lost: {lost}."
        ))?;
    }
    body["unsafe"] = json!(true);
    let done = order(remote, remote.order("/v1/recover", &body)).await?;
    if output.is_json() {
        output.json(&done)
    } else {
        output.line(&format!("the group goes on as {}", cell(&done["child"])))
    }
}

pub(crate) async fn transfer_leader(
    remote: &Remote,
    output: &Output,
    arguments: TransferLeader,
) -> Result<(), Failure> {
    let path = format!("/v1/groups/{}/transfer-leader", encoded(arguments.group.as_bytes()));
    let body = json!({ "to": arguments.to });
    if arguments.dry_run {
        let plan = ask(remote, remote.order(&format!("{path}?dry_run=true"), &body)).await?;
        if output.is_json() {
            return output.json(&plan);
        }
        return output.line(&format!("node {} would lead", cell(&plan["to"])));
    }
    let done = order(remote, remote.order(&path, &body)).await?;
    if output.is_json() { output.json(&done) } else { output.line("done") }
}

pub(crate) async fn ask(remote: &Remote, request: RequestBuilder) -> Result<Value, Failure> {
    answer(remote, request, Effect::Reads).await
}

pub(crate) async fn order(remote: &Remote, request: RequestBuilder) -> Result<Value, Failure> {
    answer(remote, request, Effect::Writes).await
}

async fn answer(remote: &Remote, request: RequestBuilder, effect: Effect) -> Result<Value, Failure> {
    let response = remote.send(request, effect).await?;
    response.json().await.map_err(|error| Failure::new(Exit::Error, format!("{}: {error}", remote.base())))
}

pub(crate) fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn range(range: &Value) -> String {
    if range["start"] == range["end"] {
        return "the whole ring".into();
    }
    format!("{}..{}", cell(&range["start"]), cell(&range["end"]))
}

const GROUP_HEAD: [&str; 9] = ["group", "range", "versions", "leader", "members", "keys", "bytes", "ops/s", "pending"];

fn group_rows(groups: &[Value]) -> Vec<Vec<String>> {
    let row = |group: &Value| {
        let members = list(group, "members").iter().map(|member| {
            let silent = if member["reachable"] == json!(false) { " (silent)" } else { "" };
            let learner = if member["role"] == json!("learner") { " (learning)" } else { "" };
            format!("{}{learner}{silent}", cell(&member["node"]))
        });
        vec![
            cell(&group["id"]),
            range(&group["range"]),
            format!("members {}, range {}", cell(&group["epoch"]["configuration"]), cell(&group["epoch"]["range"])),
            cell(&group["leader"]),
            members.collect::<Vec<_>>().join(", "),
            cell(&group["keys"]),
            cell(&group["bytes"]),
            cell(&group["ops_per_second"]),
            cell(&group["pending"]),
        ]
    };
    groups.iter().map(row).collect()
}

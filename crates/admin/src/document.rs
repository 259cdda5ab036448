//! The program's paths in its OpenAPI document.

use serde_json::{Value, json};

/// Every path beside those that all programs have.
pub(crate) fn paths() -> Value {
    let id = json!({
        "name": "id", "in": "path", "required": true, "description": "The group, in hexadecimal.",
        "schema": { "type": "string", "pattern": "^[0-9A-Fa-f]{1,16}$" },
    });
    let dry_run = json!({
        "name": "dry_run", "in": "query", "description": "Only says what would be done.",
        "schema": { "type": "boolean", "default": false },
    });
    let key = json!({
        "name": "key", "in": "query", "required": true, "description": "The key, percent-encoded.",
        "schema": { "type": "string" },
    });
    let order_with = |parameters: Value, summary: &str, schema: Value| {
        json!({ "post": {
            "summary": summary,
            "parameters": parameters,
            "requestBody": { "content": { "application/json": { "schema": schema } } },
            "responses": {
                "200": reply("Done, or with `dry_run` what would be done."), "400": problem(), "403": problem(),
                "404": problem(), "409": problem(), "503": problem(), "504": problem(),
            },
        } })
    };
    let node_id = json!({
        "name": "id", "in": "path", "required": true, "description": "The node, in hexadecimal.",
        "schema": { "type": "string", "pattern": "^[0-9A-Fa-f]{1,16}$" },
    });
    let order = |summary: &str, schema: Value| order_with(json!([id, dry_run]), summary, schema);
    let node_order = |summary: &str| {
        let nothing = json!({ "type": "object", "additionalProperties": false });
        order_with(json!([node_id, dry_run]), summary, nothing)
    };
    let question = |summary: &str, parameters: Value, more: &[&str]| {
        let mut responses = json!({ "200": reply(summary), "400": problem() });
        for status in more {
            responses[status] = problem();
        }
        json!({ "get": { "summary": summary, "parameters": parameters, "responses": responses } })
    };
    let side = json!({
        "type": "string", "enum": ["successor", "predecessor"], "default": "successor",
        "description": "Which neighbour, and so which boundary.",
    });
    let range_version = json!({
        "type": "integer", "minimum": 1, "description": "The version that the group's range must have.",
    });
    let nodes = json!({ "type": "array", "items": { "type": "string", "description": "A node's id." } });
    json!({
        "/": { "get": {
            "summary": "The web page.",
            "responses": { "200": { "description": "The page.", "content": { "text/html": {} } } },
        } },
        "/v1/ring": question("All groups in ring order, and what is wrong.", json!([]), &[]),
        "/v1/nodes": question("All nodes that are known.", json!([]), &[]),
        "/v1/lookup": question("Where a key lies.", json!([key]), &[]),
        "/v1/groups/{id}": question("One group with its replicas.", json!([id]), &["404"]),
        "/v1/operations": question("What this program ordered or saw lately, the newest first.", json!([]), &[]),
        "/v1/events": { "get": {
            "summary": "What changes, as server-sent events; with `Last-Event-ID` from there on.",
            "responses": {
                "200": { "description": "The events.", "content": { "text/event-stream": {} } },
                "400": problem(), "503": problem(),
            },
        } },
        "/v1/groups/{id}/split": order("Gives the upper part of a group's range to a new group.", json!({
            "type": "object", "additionalProperties": false,
            "properties": {
                "at": {
                    "type": "string", "pattern": "^([0-9A-Fa-f]{2}){0,4104}$",
                    "description": "The first position of the new group; without it and `key`, the middle of what the group holds.",
                },
                "key": { "type": "string", "description": "A key that lies there." },
                "range_version": range_version,
            },
        })),
        "/v1/groups/{id}/merge": order("Has a group take over all that a neighbour has; the neighbour ends.", json!({
            "type": "object", "additionalProperties": false,
            "properties": { "side": side, "range_version": range_version },
        })),
        "/v1/groups/{id}/repartition": order("Moves a boundary between a group and a neighbour.", json!({
            "type": "object", "additionalProperties": false,
            "properties": {
                "boundary": {
                    "type": "string", "pattern": "^([0-9A-Fa-f]{2}){0,4104}$",
                    "description": "Where the boundary shall lie: beyond the group's range the group gains, inside it the neighbour.",
                },
                "key": { "type": "string", "description": "A key that lies there, in place of `boundary`." },
                "side": side,
                "range_version": range_version,
            },
        })),
        "/v1/groups/{id}/members": order("Adds and removes members.", json!({
            "type": "object", "additionalProperties": false,
            "properties": {
                "add": nodes,
                "remove": nodes,
                "configuration_version": {
                    "type": "integer", "minimum": 1, "description": "The version that the group's configuration must have.",
                },
            },
        })),
        "/v1/nodes/{id}/drain": node_order("Has a node emptied: what it leads goes at once, its replicas as there is room."),
        "/v1/nodes/{id}/undrain": node_order("Takes a drain back."),
        "/v1/nodes/{id}/remove": node_order("Takes a node that is dead or empty out of every group."),
        "/v1/recover": order_with(
            json!([dry_run]),
            "Has a group that has lost its majority for good go on with its survivors, as another group. Unsafe: what only the \
             lost members had is lost.",
            json!({
                "type": "object", "additionalProperties": false, "required": ["group"],
                "properties": {
                    "group": { "type": "string", "description": "The group's id." },
                    "survivors": nodes,
                    "unsafe": { "type": "boolean", "description": "Must be true, but for a dry run." },
                },
            }),
        ),
        "/v1/groups/{id}/transfer-leader": order("Hands leadership over.", json!({
            "type": "object", "additionalProperties": false,
            "properties": { "to": { "type": ["string", "null"], "description": "A voter's id; none lets the leader choose." } },
        })),
    })
}

fn reply(description: &str) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": { "type": "object" } } } })
}

fn problem() -> Value {
    let schema = json!({ "$ref": "#/components/schemas/Problem" });
    json!({ "description": "What is wrong.", "content": { "application/problem+json": { "schema": schema } } })
}

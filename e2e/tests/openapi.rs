//! The OpenAPI document says what the gateway does: each answer is one that it describes, its examples work, and each operation is
//! open to those, and only those, whom it names. All of it is generated from the document, so a new operation is tested, or fails.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use holdfast_certs::Claims;
use holdfast_chaos::rest::Answer;
use holdfast_e2e::{
    World, eventually, id,
    openapi::{Document, Operation},
};
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::Value;
use uuid::Uuid;

/// A user whose order is delivered, so that each part of it exists.
struct Owner {
    user: String,
    order_id: String,
}

impl Owner {
    async fn new(world: &World) -> Self {
        let user = world.user("owner", "100.00").await;
        let order_id = id(&world.create(&user, "1 Quay Street", 100).await);
        eventually("the order is delivered", || async {
            user.order(&order_id).await.expect("answered")["delivery_status"] == "DELIVERED"
        })
        .await;
        Self { user: user.user, order_id }
    }

    /// Sends a request of an operation about this user, with a token or without, and checks that its answer is described.
    async fn ask(
        &self,
        world: &World,
        operation: Operation<'_>,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let path = operation.path_with(&[("id", &self.order_id), ("user_id", &self.user)]);
        let mut request =
            Request::builder().method(operation.method()).uri(format!("{}{path}", world.rest.base_url()));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if operation.requires_header("Idempotency-Key") {
            request = request.header("idempotency-key", Uuid::now_v7().to_string());
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        // Only the head of a stream is waited for.
        if let (true, Some(token)) = (operation.is_stream(), token) {
            let stream = world.rest.events(&path, token, None).await.expect("answered");
            if stream.status == 200 {
                operation.assert_describes_head(stream.status, &stream.headers);
                return Answer { status: stream.status, headers: stream.headers, body: Bytes::new() };
            }
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let answer = world.rest.send(request).await.expect("answered");
        operation.assert_describes(&answer);
        answer
    }
}

fn problem_of(answer: &Answer) -> String {
    let uri = answer.json()["type"].as_str().unwrap_or_default().to_owned();
    uri.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Each operation is open to whoever has its scope, for what is theirs, and to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_open_to_those_that_it_names() {
    let world = World::patient();
    let document = Document::fetch(&world.rest).await;
    let owner = Owner::new(&world).await;
    let other = world.user("other", "100.00").await.user;
    let token = |user: &str, scope: &str| world.rest.token(user, scope).expect("a token");
    let all: Vec<_> = document.scopes().into_iter().collect();
    let expired = {
        let mut claims = Claims::new(&owner.user, &all.join(" "), Duration::from_secs(60)).expect("claims");
        (claims.iat, claims.exp) = (claims.iat - 120, claims.iat - 60);
        World::issuer(world.stack).sign(&claims).expect("signed")
    };

    let mut refusals = HashSet::new();
    let mut secured = 0;
    for operation in document.operations() {
        let (_, body) = operation.bodies()[0].clone();
        let ask = |token: Option<String>| {
            let owner = &owner;
            let world = &world;
            async move { owner.ask(world, operation, token.as_deref(), body).await }
        };
        let what = operation.id();
        let Some(scope) = operation.scope() else {
            assert_eq!(ask(None).await.status, operation.success(), "{what} without a token");
            continue;
        };
        secured += 1;
        // The owner, with this scope and no other.
        assert_eq!(ask(Some(token(&owner.user, scope))).await.status, operation.success(), "{what}");

        // Nobody in particular: the answer does not say why.
        for (cause, bad) in
            [("no token", None), ("expired", Some(expired.clone())), ("garbage", Some("a.b.c".to_owned()))]
        {
            let answer = ask(bad).await;
            assert_eq!(
                (answer.status.as_u16(), problem_of(&answer)),
                (401, "invalid-token".to_owned()),
                "{what}: {cause}"
            );
            assert_eq!(
                answer.headers[header::WWW_AUTHENTICATE],
                "Bearer error=\"invalid_token\"",
                "{what}: {cause}"
            );
            let mut problem = answer.json();
            problem["instance"] = Value::Null;
            refusals.insert(problem.to_string());
        }

        // The owner, with every scope but this one.
        let others: Vec<_> = all.iter().copied().filter(|other| *other != scope).collect();
        let answer = ask(Some(token(&owner.user, &others.join(" ")))).await;
        assert_eq!(
            (answer.status.as_u16(), problem_of(&answer)),
            (403, "insufficient-scope".to_owned()),
            "{what}"
        );
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer error=\"insufficient_scope\"", "{what}");

        // Somebody else, with this scope.
        let answer = ask(Some(token(&other, scope))).await;
        match operation.of_other_user() {
            "allowed" => assert_eq!(answer.status, operation.success(), "{what}: another user"),
            "own" => {
                assert_eq!(answer.status, operation.success(), "{what}: another user");
                assert!(
                    !operation.path.contains('{'),
                    "{what}: an operation about something named is nobody's own"
                );
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(!text.contains(&owner.order_id) && !text.contains(&owner.user), "{what}: {text}");
            }
            problem => {
                assert!(
                    (400..500).contains(&answer.status.as_u16()),
                    "{what}: another user got {}",
                    answer.status
                );
                assert_eq!(problem_of(&answer), problem, "{what}: another user");
                assert!(!String::from_utf8_lossy(&answer.body).contains(&owner.user), "{what}");
            }
        }
    }
    assert!(secured > 8, "{secured}");
    assert_eq!(refusals.len(), 1, "one body for every cause and every operation: {refusals:?}");
}

/// Each example of the document gets the success that it promises, and keeps to the schema that it illustrates.
#[tokio::test(flavor = "multi_thread")]
async fn each_example_works() {
    let world = World::patient();
    let document = Document::fetch(&world.rest).await;
    let owner = Owner::new(&world).await;
    for operation in document.operations() {
        for (name, body) in operation.bodies() {
            let what = format!("{}, {name}", operation.id());
            if let Some(body) = body {
                let errors = document.errors(operation.body_schema(), body);
                assert!(errors.is_empty(), "{what}: {errors:#?}");
            }
            let token = operation.scope().map(|scope| world.rest.token(&owner.user, scope).expect("a token"));
            let answer = owner.ask(&world, operation, token.as_deref(), body).await;
            assert_eq!(answer.status, operation.success(), "{what}: {:?}", answer.body);
            if operation.is_stream() {
                let path = operation.path_with(&[("id", &owner.order_id)]);
                let mut stream = world
                    .rest
                    .events(&path, &token.expect("a stream needs one"), None)
                    .await
                    .expect("opened");
                let block = stream.next().await.expect("no failure").expect("an event");
                // The stream of all orders may have nothing to say yet.
                if let Some(order) = block.order() {
                    let errors = document.errors(&document.schema("Order"), order);
                    assert!(errors.is_empty(), "{what}: {errors:#?}");
                }
            }
        }
    }
}

/// What the schemas refuse the gateway refuses too, and what they allow it takes: at the limits of each value.
#[tokio::test(flavor = "multi_thread")]
async fn schemas_and_gateway_agree_at_the_limits() {
    let world = World::patient();
    let document = Document::fetch(&world.rest).await;
    let user = world.user("limits", "1.00").await;
    let create = document.operations().into_iter().find(|operation| operation.id() == "createOrder");
    let create = create.expect("there");
    let item = |product: &str, quantity: &str, price: &str| {
        format!(r#"{{"product_id":{product:?},"quantity":{quantity},"price":{price}}}"#)
    };
    let order = |address: &str, items: &[String]| {
        format!(r#"{{"delivery_address":{},"items":[{}]}}"#, Value::from(address), items.join(","))
    };
    let line = item("a", "1", "1");
    let one = std::slice::from_ref(&line);
    let bodies = [
        order("x", &vec![line.clone(); 100]),
        order("x", &vec![line.clone(); 101]),
        order("x", &[]),
        order(&"ü".repeat(500), one),
        order(&"ü".repeat(501), one),
        order("", one),
        order(" \u{a0}\u{2003}\u{3000}", one),
        order(" \u{a0}x\u{3000}", one),
        order("a\nb", one),
        order("a\u{85}b", one),
        order("a\u{202e}b", one),
        order("a\u{2069}b", one),
        order("a\u{feff}\u{1f4e6}b", one),
        order("x", &[item(&"p".repeat(64), "10000", "1000000")]),
        order("x", &[item(&"p".repeat(65), "1", "1")]),
        order("x", &[item("", "1", "1")]),
        order("x", &[item("A-z.9_:", "1", "0.01")]),
        order("x", &[item("a b", "1", "1")]),
        order("x", &[item("a", "0", "1")]),
        order("x", &[item("a", "10001", "1")]),
        order("x", &[item("a", "1.5", "1")]),
        order("x", &[item("a", "2.0", "1")]),
        order("x", &[item("a", "1", "0")]),
        order("x", &[item("a", "1", "0.07")]),
        order("x", &[item("a", "1", "999999.99")]),
        order("x", &[item("a", "1", "1000000.01")]),
        order("x", &[item("a", "1", "0.001")]),
        order("x", &[item("a", "1", "19.999")]),
        order("x", &[item("a", "1", "\"1\"")]),
        order("x", &[line.replace('}', r#","colour":"red"}"#)]),
        order("x", one).replacen('{', r#"{"user_id":null,"#, 1),
        order("x", one).replacen('{', r#"{"status":"PAID","#, 1),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
    ];
    for body in bodies {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/api/orders", world.rest.base_url()))
            .header(header::AUTHORIZATION, format!("Bearer {}", user.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.clone().into()))
            .expect("a request");
        let answer = world.rest.send(request).await.expect("answered");
        create.assert_describes(&answer);
        let value = serde_json::from_str(&body).expect("JSON");
        let errors = document.errors(create.body_schema(), &value);
        let expected = if errors.is_empty() { 201 } else { 422 };
        assert_eq!(answer.status, expected, "{body}: the schema says {errors:?}");
    }
}

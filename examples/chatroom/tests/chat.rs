//! The chat with the real gateway, as people at terminals see it.

use anyhow::ensure;
use frontier_e2e::{
    gateway::{Config, Gateway},
    program::Program,
    wait::{SOON, until},
};

const CHATROOM: &str = env!("CARGO_BIN_EXE_chatroom");

#[test]
fn members_see_each_other_come_talk_and_go() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let room = room(&gateway)?;
    let mut ada = join(&gateway, "ada")?;
    ada.says("* here: ada")?;
    let mut bob = join(&gateway, "bob")?;
    bob.says("* here: ada, bob")?;
    ada.says("* bob is here")?;

    bob.types("hello \u{1b}[31mada")?;
    assert_eq!(ada.says("bob: ")?, "bob: hello [31mada", "nobody's terminal is at somebody else's mercy");
    ada.types("hello bob")?;
    ada.types("how are you?")?;
    bob.says("ada: how are you?")?;
    assert_eq!(bob.said("ada: "), ["ada: hello bob", "ada: how are you?"], "in order, each once");
    assert_eq!(ada.said("hello bob").len(), 0, "nobody hears himself");
    room.says("ada: how are you?")?;
    assert_eq!(room.said("ada: ").len() + room.said("bob: ").len(), 3);

    bob.end_input();
    ensure!(bob.exit()?.success());
    ada.says("* bob has left")?;
    ada.types("/who")?;
    ada.types("anybody?")?;
    room.says("ada: anybody?")?;
    until("an answer to /who", SOON, || (ada.said("* here: ada").len() == 2).then_some(()))?;
    ada.interrupt()?;
    ada.says("* bye")?;
    ensure!(ada.exit()?.success());
    room.says("* ada has left")?;
    Ok(())
}

#[test]
fn a_name_that_is_taken_is_refused_until_it_is_free() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let room = room(&gateway)?;
    let mut first = join(&gateway, "ada")?;
    let mut second = start(&gateway, "ada")?;
    second.says("the name ada is taken")?;
    ensure!(!second.exit()?.success());
    first.end_input();
    ensure!(first.exit()?.success());
    room.says("* ada has left")?;
    join(&gateway, "ada")?;
    Ok(())
}

#[test]
fn a_room_that_opens_again_finds_its_members() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let mut ada = join(&gateway, "ada")?;
    ada.says("* the room is not open")?;
    ada.types("hello?")?;
    ada.says("* not delivered: the room is not open")?;

    let mut first = room(&gateway)?;
    ada.says("* the room is open; here: ada")?;
    first.interrupt()?;
    ensure!(first.exit()?.success());
    ada.says("* the room closes")?;
    let bob = join(&gateway, "bob")?;
    bob.says("* the room is not open")?;

    let _second = room(&gateway)?;
    ada.says("* the room is open; here: ada, bob")?;
    ada.types("are you there?")?;
    bob.says("ada: are you there?")?;
    Ok(())
}

fn room(gateway: &Gateway) -> anyhow::Result<Program> {
    let services = format!("tcp://{}", gateway.services());
    let room = Program::start(CHATROOM, ["room", "--gateway", &services])?;
    room.says("the room is open; Ctrl-C closes it")?;
    Ok(room)
}

fn start(gateway: &Gateway, name: &str) -> anyhow::Result<Program> {
    let edges = format!("tcp://{}", gateway.edges());
    Program::start(CHATROOM, ["join", name, "--gateway", &edges])
}

fn join(gateway: &Gateway, name: &str) -> anyhow::Result<Program> {
    let member = start(gateway, name)?;
    member.says(&format!("* you are {name}"))?;
    Ok(member)
}

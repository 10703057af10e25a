"""One step of a plain training loop, recorded or not."""


def take_step(model, optimizer, criterion, inputs, target, recorder=None):
    """Takes the step, with the three calls of a Recorder if there is one; returns the loss."""
    optimizer.zero_grad()
    output = model(inputs)
    loss = criterion(output, target)
    if recorder:
        recorder.forward(inputs, output=output, target=target, loss=loss)
    loss.backward()
    if recorder:
        recorder.backward()
    optimizer.step()
    if recorder:
        recorder.step()
    return loss

"""The network, losses and optimiser of training/runs/dualpath-flickr8k.toml as one would write them in PyTorch.

Prints steps a second over two epochs behind a first one."""

import io
import json
import math
import os
import random
import sys
import time

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

LENGTH = 32
# Expansion is six; output channels and stride of each block behind the stem.
BLOCKS = [(24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1),
          (96, 1), (96, 1), (96, 1), (160, 2), (160, 1), (160, 1), (320, 1)]


class Conv(nn.Module):
    def __init__(self, index, i, o, kernel=1, stride=1, groups=1, active=True):
        super().__init__()
        self.index, self.stride, self.active = index, stride, active
        self.conv = nn.Conv2d(i, o, kernel, stride, 0 if stride == 2 else kernel // 2, groups=groups)

    def forward(self, x):
        if self.stride == 2:
            x = F.pad(x, (0, 1, 0, 1))
        x = self.conv(x)
        return F.relu6(x, inplace=True) if self.active else x


class Block(nn.Module):
    def __init__(self, index, i, o, stride):
        super().__init__()
        self.add = i == o and stride == 1
        self.layers = nn.Sequential(
            Conv(index, i, 6 * i), Conv(index + 1, 6 * i, 6 * i, 3, stride, 6 * i),
            Conv(index + 2, 6 * i, o, active=False))

    def forward(self, x):
        return x + self.layers(x) if self.add else self.layers(x)


def norm(channels, kind=nn.BatchNorm1d):
    return kind(channels, eps=1e-3, momentum=0.05)


class ImagePath(nn.Module):
    def __init__(self, weights):
        super().__init__()
        layers, channels = [Conv(0, 3, 32, 3, 2), Conv(1, 32, 32, 3, 1, 32), Conv(2, 32, 16, active=False)], 16
        for at, (o, stride) in enumerate(BLOCKS):
            layers.append(Block(3 * at + 3, channels, o, stride))
            channels = o
        self.backbone = nn.Sequential(*layers, Conv(51, 320, 1280))
        for it in self.modules():
            if isinstance(it, Conv):
                it.conv.weight.data.copy_(weights[f"conv{it.index:02}.weight"])
                it.conv.bias.data.copy_(weights[f"conv{it.index:02}.bias"])
        self.head = nn.Sequential(
            norm(2560), nn.Linear(2560, 1024, bias=False), norm(1024), nn.ReLU(inplace=True),
            nn.Dropout(0.3), nn.Linear(1024, 512, bias=False), norm(512))

    def forward(self, x):
        x = self.backbone(x)
        return F.normalize(self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)))


class Residual(nn.Module):
    def __init__(self, i, middle, o):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(i, middle, 1, bias=False), norm(middle), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv1d(middle, middle, 2, bias=False), norm(middle), nn.ReLU(inplace=True))
        self.third = nn.Sequential(nn.Conv1d(middle, o, 1, bias=False), norm(o))
        self.project = nn.Identity() if i == o else nn.Sequential(nn.Conv1d(i, o, 1, bias=False), norm(o))

    def forward(self, x):
        return F.relu(self.third(self.second(F.pad(self.first(x), (1, 0)))) + self.project(x), inplace=True)


class TextPath(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.lookup = nn.Embedding(words, 300, padding_idx=0)
        self.blocks = nn.Sequential(norm(300), Residual(300, 256, 512), Residual(512, 256, 512), Residual(512, 256, 1024))
        self.head = nn.Sequential(norm(2048), nn.Dropout(0.3), nn.Linear(2048, 512, bias=False), norm(512))

    def forward(self, tokens):
        x = self.blocks(self.lookup(tokens).transpose(1, 2))
        is_word = (tokens > 0).unsqueeze(1)
        mean = (x * is_word).sum(2) / is_word.sum(2)
        return F.normalize(self.head(torch.cat([mean, x.masked_fill(~is_word, -1e4).amax(2)], 1)))


class Pictures(torch.utils.data.Dataset):
    def __init__(self, pictures, vocabulary):
        self.pictures, self.vocabulary = pictures, vocabulary

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, at):
        it = self.pictures[at]
        with open(it["file"], "rb") as file:
            file.seek(it["offset"])
            picture = Image.open(io.BytesIO(file.read(it["bytes"]))).convert("RGB")
        (w, h), share, aspect = picture.size, random.uniform(0.5, 1), math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        cw, ch = (min(full, round(full * math.sqrt(share * f))) for full, f in ((w, aspect), (h, 1 / aspect)))
        x, y = random.randint(0, w - cw), random.randint(0, h - ch)
        picture = picture.resize((224, 224), Image.Resampling.BILINEAR, (x, y, x + cw, y + ch))
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(224, 224, 3)
        if random.random() < 0.5:
            pixels = pixels.flip(1)
        words = random.choice(it["sentences"]).lower().replace(".", " .").replace(",", " ,").split()[:LENGTH]
        ids = [1 if random.random() < 0.1 else self.vocabulary.get(word, 1) for word in words]
        start = random.randint(0, LENGTH - len(ids))
        tokens = torch.zeros(LENGTH, dtype=torch.long)
        tokens[start:start + len(ids)] = torch.tensor(ids)
        return pixels, tokens, at


def main():
    data, pictures, tokenizer, batch, device, precision = sys.argv[1:]
    batch = int(batch)
    torch.manual_seed(1)
    vocabulary = json.load(open(tokenizer))["model"]["vocab"]
    pictures = [it for it in json.load(open(pictures)) if it["split"] == "train"]
    # Not above: who imports only the networks has no weights.
    from safetensors.torch import load_file

    image_path = ImagePath(load_file(f"{data}/weights/mobilenet_v2_dequant_fp32.safetensors")).to(device, memory_format=torch.channels_last)
    text_path = TextPath(len(vocabulary)).to(device)
    share = nn.Parameter(torch.randn(len(pictures), 512, device=device))
    temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07), device=device))
    moving = [*image_path.parameters(), *text_path.parameters(), share, temperature]
    averaged = [it.detach().clone() for it in moving]
    optimiser = torch.optim.AdamW(moving, lr=1e-4, betas=(0.9, 0.98), weight_decay=0.05)
    loader = torch.utils.data.DataLoader(
        Pictures(pictures, vocabulary), batch, shuffle=True, drop_last=True, num_workers=min(16, os.cpu_count() - 1), persistent_workers=True)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for pixels, tokens, classes in loader:
            pixels, tokens, classes = (it.to(device) for it in (pixels, tokens, classes))
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                images = image_path((pixels.float() / 127.5 - 1).permute(0, 3, 1, 2)).float()
                texts = text_path(tokens).float()
            of = F.normalize(share)
            instance = sum(F.cross_entropy(16 * it @ of.T, classes, label_smoothing=0.1) for it in (images, texts))
            logits = images @ texts.T * temperature.clamp(max=math.log(100)).exp()
            own = torch.arange(batch, device=device)
            ranking = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
            optimiser.zero_grad()
            (ranking + 0.25 * instance).backward()
            nn.utils.clip_grad_norm_(moving, 2.0)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(averaged, moving, 0.01)
        seconds.append(time.perf_counter() - began)
    print(len(loader) / (sum(seconds[1:]) / 2))


if __name__ == "__main__":
    main()
